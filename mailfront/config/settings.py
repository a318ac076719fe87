"""Settings of `[server]`: who this front end is and where it keeps its things; and `[limits]` put together."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from mailfront.base.settings import FilePath, Settings
from mailfront.edge.settings import LimitsSettings as EdgeLimits
from mailfront.sessions.settings import SessionLimits
from mailfront.store.settings import StateUrl, StoreLimits

_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


class ServerSettings(Settings):
    """This front end: its name, its processes, its folders."""

    hostname: str = Field(max_length=255)
    """Name that we greet with, say LHLO with and write into `Received`. Use the name that the MX record points to."""
    user: str | None = None
    """Account that we become after binding. Absent: we stay who we are."""
    workers: int = Field(default=2, ge=1, le=64)
    """Processes that serve connections; one per processor core is a good number."""
    state_dir: FilePath = Path("/var/lib/mailfront")
    """Folder for what must survive a restart: the database, events, the directory's snapshot."""
    runtime_dir: FilePath = Path("/run/mailfront")
    """Folder for sockets and the process id; emptied by a reboot."""
    spool_dir: FilePath = Path("/var/spool/mailfront")
    """Folder for temporary files of large messages. Nothing in it is needed after a restart."""
    state: StateUrl | None = None
    """Database for placement, node states and the queue: `"sqlite:////path/to/state.db"` (four slashes: the path is
    absolute). Absent: `state.db` in `state_dir`."""
    admin_group: str | None = None
    """Group whose members may use the admin socket besides root and `user`. Absent: only those two."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important lines that are written. Events are written whatever this says."""
    mask_addresses: bool = False
    """Hide the local part of addresses in logs and event files. `trace` then finds messages by id only."""

    @field_validator("hostname")
    @classmethod
    def _is_hostname(cls, value: str) -> str:
        if _HOSTNAME.fullmatch(value) is None:
            raise ValueError(f'{value!r} is not a host name; write one such as "mx1.example.edu"')
        return value.lower()

    @field_validator("user", "admin_group")
    @classmethod
    def _is_account(cls, value: str | None) -> str | None:
        if value is not None and _ACCOUNT.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not a name of an account or group")
        return value

    @property
    def state_url(self) -> str:
        """The database's URL, the default filled in."""
        return self.state or f"sqlite:///{self.state_dir.absolute() / 'state.db'}"

    @property
    def admin_socket(self) -> Path:
        """Where the running server takes commands."""
        return self.runtime_dir / "admin.sock"

    @property
    def events_dir(self) -> Path:
        """Where the event files are."""
        return self.state_dir / "events"


class LimitsSettings(EdgeLimits, SessionLimits, StoreLimits):
    """What one client, one message and all of them together may take. Each limit has a metric and a clear reply."""
