"""Settings of `[[filter]]`: what every filter has, whatever its kind."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from mailfront.base.settings import DurationS, Settings, SizeBytes
from mailfront.net.networks import Networks

DEFAULT_CONCURRENCY, MOST_CONCURRENCY = 20, 10_000
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")


class OnlyForSettings(Settings):
    """Which messages a filter is asked about. All conditions that are given must hold."""

    domains: tuple[str, ...] = Field(default=(), strict=False)
    """Domains of recipients. Absent: all. A filter with this or `classes` is not asked before recipients are known."""
    classes: tuple[str, ...] = Field(default=(), strict=False)
    """Object classes that the directory gives a recipient. Absent: all."""
    networks: Networks = ()
    """Networks of clients. Absent: all."""
    max_size: SizeBytes | None = Field(default=None, gt=0)
    """Largest message, header included. Absent: any size."""

    @field_validator("domains", "classes")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each.lower() for each in value)


class FilterSettings(Settings):
    """One filter of the chain. Filters run in parallel, except after those that `after` names."""

    name: str
    """Name in logs, metrics, `filter list` and `after`: small letters, digits, `-`, `_`."""
    kind: str
    """What it is: one of the kinds below, or one that an installed plug-in brings."""
    after: tuple[str, ...] = Field(default=(), strict=False)
    """Filters that must have answered first; this one then sees what they found. The others run at the same time."""
    timeout: DurationS = Field(default=10.0, gt=0, le=600)
    """How long one answer may take. Then the filter has failed, and `on_error` applies."""
    concurrency: int = Field(default=DEFAULT_CONCURRENCY, ge=1, le=MOST_CONCURRENCY)
    """How many messages this filter looks at at once, in each worker; the others wait, at most `timeout`. For
    `pregreet` and `dnsbl`, which wait for clients and for DNS, the default is 10000."""
    on_error: Literal["accept", "tempfail", "reject"] = "tempfail"
    """What happens to mail when the filter fails or is too slow: `accept` lets it pass unfiltered, `tempfail` answers
    451, `reject` answers 550."""
    only_for: OnlyForSettings = OnlyForSettings()
    """Which messages it is asked about."""
    shadow: bool = False
    """Ask it and record what it says, but do not obey it: to try a filter with real mail."""
    settings: Any = None
    """The kind's own settings."""

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if _NAME.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not a name; use small letters, digits, - and _, at most 32")
        return value
