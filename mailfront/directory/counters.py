"""What the directory did since the process started. Counted in plain numbers, which costs a warm look-up nothing to
speak of; `CountersReport` adds them to the metrics now and then."""

from dataclasses import dataclass, replace

from mailfront.observe import metrics


@dataclass(slots=True)
class DirectoryCounters:
    """Plain counts, written by the event loop only.

    `hits`: answered from a fresh copy. `joined`: waited for the look-up that somebody else had begun. `ldap_searches`:
    searches and binds that have ended, `ldap_failures` of them without an answer; probes and snapshot pages excepted.
    `stale`, `snapshot`: answered from an old copy because no server did. `unanswered`: ended as `CannotSay`.
    """

    lookups: int = 0
    hits: int = 0
    joined: int = 0
    ldap_searches: int = 0
    ldap_failures: int = 0
    stale: int = 0
    snapshot: int = 0
    unanswered: int = 0


class CountersReport:
    """Adds what was counted since the last time to the metrics."""

    def __init__(self, counters: DirectoryCounters) -> None:
        self._counters = counters
        self._told = replace(counters)

    def tell(self) -> None:
        """Bring the metrics up to date."""
        now, told = self._counters, self._told
        self._told = replace(now)
        metrics.DIRECTORY_LOOKUPS.inc(amount=now.lookups - told.lookups)
        for source, count in (
            ("cache", now.hits - told.hits),
            ("joined", now.joined - told.joined),
            ("stale", now.stale - told.stale),
            ("snapshot", now.snapshot - told.snapshot),
            ("none", now.unanswered - told.unanswered),
        ):
            metrics.DIRECTORY_ANSWERS.inc(source, amount=count)
        failed_count = now.ldap_failures - told.ldap_failures
        metrics.LDAP_SEARCHES.inc("ok", amount=now.ldap_searches - told.ldap_searches - failed_count)
        metrics.LDAP_SEARCHES.inc("failed", amount=failed_count)
