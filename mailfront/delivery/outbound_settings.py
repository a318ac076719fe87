"""Settings of `[outbound]`: how mail for addresses outside leaves."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from mailfront.base.settings import DurationS, FilePath, Settings

_SMARTHOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})):(\d{1,5})")


class OutboundSettings(Settings):
    """How mail for addresses outside leaves: through one server that takes it all."""

    smarthost: str | None = None
    """The server, such as `"relay.example.edu:25"` or `"[2001:db8::1]:587"`. Absent: mail for outside waits in the
    queue."""
    tls: Literal["off", "opportunistic", "starttls", "implicit"] = "starttls"
    """`opportunistic`: TLS if it is offered, with any certificate. `starttls`: only with TLS, and the certificate is
    checked. `implicit`: the same with TLS from the first byte."""
    ca: FilePath | None = None
    """The certificates that the server is verified with. Absent: those of the system."""
    login_file: FilePath | None = None
    """File with the user in its first line and the password in its second, for AUTH. Needs `starttls` or `implicit`."""
    connections: int = Field(default=10, ge=1, le=200)
    """Most connections to the server at a time."""
    connect_timeout: DurationS = Field(default=30.0, gt=0, le=300)
    """For connecting and the greeting, and again for TLS."""
    reply_timeout: DurationS = Field(default=300.0, gt=0, le=600)
    """For each reply after the greeting and before the message's data."""
    final_timeout: DurationS = Field(default=600.0, gt=0, le=3600)
    """For the data and the reply after it. After this the outcome is unknown and the message is sent again."""
    idle_timeout: DurationS = Field(default=30.0, gt=0, le=300)
    """An unused connection is closed after this."""

    @field_validator("smarthost")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None:
            match = _SMARTHOST.fullmatch(value)
            if match is None or not 1 <= int(match[2]) <= 65535:
                raise ValueError(f'{value!r} is not a server with its port, such as "relay.example.edu:25"')
        return value

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> "OutboundSettings":
        if self.login_file is not None and self.tls not in ("starttls", "implicit"):
            raise ValueError('login_file needs tls = "starttls" or "implicit": a password is never sent without it')
        return self

    @property
    def host(self) -> str:
        """The server's name or address, without brackets; '' if there is none."""
        return (self.smarthost or "").rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The server's port; 0 if there is none."""
        return int(self.smarthost.rpartition(":")[2]) if self.smarthost else 0
