"""Settings of `[queue]`."""

from typing import Literal

from pydantic import Field, field_validator

from mailfront.base.settings import DurationS, Settings, SizeBytes
from mailfront.mail.address import parse_path
from mailfront.net.networks import Networks


class QueueSettings(Settings):
    """How long mail is kept, and how often it is tried."""

    store: Literal["state"] = "state"
    """Where queued messages are: `"state"` is the database of `server.state`. No other place in this version."""
    retry: tuple[DurationS, ...] = Field(default=(60.0, 300.0, 900.0, 3600.0, 10800.0), min_length=1, strict=False)
    """Waits between attempts; the last one repeats. Each is moved by up to a fifth at random."""
    lifetime: DurationS = Field(default=5 * 86400.0, ge=1)
    """A recipient that could not be delivered for this long is given up, and the sender is told."""
    warn_after: DurationS = Field(default=4 * 3600.0, ge=1)
    """After this long a sender is told that a message is late, if he may be (`warn_networks`, or a filter of kind
    `auth` that proved him). Mail that is handed off for longer raises an alarm."""
    warn_networks: Networks = ()
    """Clients whose senders are believed: they are told when a message is late, and of failures whatever SPF and DMARC
    say. Senders are easily forged: name networks of your own."""
    double_bounce: str | None = None
    """Where failures of messages go that have no sender themselves, such as notices. Absent: they are only recorded as
    an event."""
    notice_language: Literal["en", "es"] = "en"
    """Language of notices to senders about messages that do not say theirs (`Content-Language`)."""
    max_bytes: SizeBytes | None = None
    """The most that the database may hold before nothing more is queued. Absent: only free disk space counts."""

    @field_validator("double_bounce")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None and ((address := parse_path(value)) is None or not address.domain):
            raise ValueError(f'{value!r} is not an address, such as "postmaster@example.edu"')
        return value

    @field_validator("retry")
    @classmethod
    def _not_at_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) < 1.0:
            raise ValueError("each wait must be at least 1s")
        return value
