"""The reference pages of events and metrics, made from their catalogues. A test compares them with `docs/reference/`.

Run `python -m mailfront.observe.reference events > docs/reference/events.md`, and the same with `metrics`, after
changing a declaration. Pure: nothing is counted and no log is written here.
"""

import sys
from collections.abc import Callable, Iterator

from mailfront.observe import events, meters, metrics

_EVENTS_HEAD = """\
# Events

This page is made from the program (`mailfront/observe/events.py`); edit the declarations, not the page.

An event is one fact in one line of JSON. Events go to standard error (the journal, under systemd) and to the files in
`state_dir/events/`, which `mailfront trace` reads. A field that does not apply is left out or null. `_s`, `_ms`,
`_bytes` and `_count` at the end of a name are units. An address is written as it came; with `server.mask_addresses`
its local part is hidden.

Lines with `level` and `message` instead of `event` are remarks for people. Their texts may change.

Every event has these fields:

"""
_METRICS_HEAD = """\
# Metrics

This page is made from the program (`mailfront/observe/metrics.py`); edit the declarations, not the page.

The `admin` listener shows them at `/metrics` in Prometheus' text format, for all processes of this front end together.
Counters go on when a worker is restarted, and begin at 0 when mailfront is. A gauge is shown once something has set
it. A label value that is not known here is counted as `other`. Seconds and bytes are the only units.

"""


def render_events() -> str:
    """The page of events, in Markdown."""
    return _EVENTS_HEAD + _fields(events.COMMON_FIELDS) + "".join(_event(each) for each in events.CATALOGUE.values())


def render_metrics() -> str:
    """The page of metrics, in Markdown."""
    assert metrics.CONTENT_TYPE  # Importing `metrics` is what fills the catalogue.
    groups: dict[str, list[str]] = {}
    for name, meter in meters.CATALOGUE.items():
        groups.setdefault(name.split("_")[1], []).append(_metric(meter))
    return _METRICS_HEAD + "\n".join(f"## {group}\n\n{''.join(lines)}" for group, lines in sorted(groups.items()))


def _event(kind: events.EventKind) -> str:
    return f"\n## `{kind.name}`\n\n{kind.summary}\n\n{_fields(kind.fields)}"


def _fields(fields: dict[str, str]) -> str:
    return "".join(f"- `{name}`: {meaning}\n" for name, meaning in fields.items())


def _metric(meter: meters.Counter | meters.Gauge | meters.Histogram) -> str:
    lines = [f"- **`{meter.name}`** ({type(meter).__name__.lower()}): {meter.help_text}\n"]
    lines += _labels(meter.labels)
    return "".join(lines)


def _labels(labels: dict[str, tuple[str, ...]]) -> Iterator[str]:
    for name, allowed in labels.items():
        text = ", ".join(f"`{value}`" for value in allowed) or "a name from the configuration"
        yield f"  - `{name}`: {text}\n"


PAGES: dict[str, Callable[[], str]] = {"events": render_events, "metrics": render_metrics}


def main(arguments: list[str]) -> int:
    """Print the page that is named. Returns the exit status."""
    if len(arguments) != 1 or arguments[0] not in PAGES:
        print(f"usage: python -m mailfront.observe.reference {'|'.join(PAGES)}", file=sys.stderr)
        return 2
    sys.stdout.write(PAGES[arguments[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
