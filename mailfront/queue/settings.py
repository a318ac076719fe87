"""Settings of `[queue]`."""

from typing import Literal

from pydantic import Field, field_validator

from mailfront.base.settings import DurationS, Settings, SizeBytes


class QueueSettings(Settings):
    """How long mail is kept, and how often it is tried."""

    store: Literal["state"] = "state"
    """Where queued messages are: `"state"` is the database of `server.state`. No other place in this version."""
    retry: tuple[DurationS, ...] = Field(default=(60.0, 300.0, 900.0, 3600.0, 10800.0), min_length=1, strict=False)
    """Waits between attempts; the last one repeats. Each is moved by up to a fifth at random."""
    lifetime: DurationS = Field(default=5 * 86400.0, ge=60)
    """A recipient that could not be delivered for this long is held, and an alarm is raised."""
    warn_after: DurationS = Field(default=4 * 3600.0, ge=60)
    """Mail that is handed off for longer than this raises an alarm."""
    max_bytes: SizeBytes | None = None
    """The most that the database may hold before nothing more is queued. Absent: only free disk space counts."""

    @field_validator("retry")
    @classmethod
    def _not_at_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) < 1.0:
            raise ValueError("each wait must be at least 1s")
        return value
