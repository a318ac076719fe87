"""From the directory's plain counts to the metrics."""

from mailfront.directory.counters import CountersReport, DirectoryCounters
from mailfront.observe import meters, metrics


def _value(text: str, sample: str) -> float:
    """One sample of the metrics page; 0 if it is not there."""
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(sample + " ")), 0.0)


def test_only_what_is_new_is_added() -> None:
    """Each count reaches the metrics once, a failed search as failed and not as ok."""
    meters.open_storage(None, "test")
    counters = DirectoryCounters()
    report = CountersReport(counters)
    counters.lookups, counters.hits, counters.unanswered = 5, 3, 1
    counters.ldap_searches, counters.ldap_failures = 2, 1
    report.tell()
    counters.lookups, counters.hits = 6, 4
    report.tell()
    text = metrics.render().decode()
    assert _value(text, "mailfront_directory_lookups_total") == 6
    assert _value(text, 'mailfront_directory_answers_total{source="cache"}') == 4
    assert _value(text, 'mailfront_directory_answers_total{source="none"}') == 1
    assert _value(text, 'mailfront_directory_ldap_searches_total{result="ok"}') == 1
    assert _value(text, 'mailfront_directory_ldap_searches_total{result="failed"}') == 1
