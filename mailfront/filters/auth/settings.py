"""Settings of the kind `auth`."""

from typing import Literal

from pydantic import Field, field_validator

from mailfront.base.settings import DurationS, Settings
from mailfront.net.dns_settings import NameServers


class AuthSettings(Settings):
    """How senders are authenticated, and what follows from it."""

    name_servers: NameServers = ()
    """Addresses of recursive name servers, such as `"127.0.0.1"` or `"127.0.0.1:5353"`. Absent: those of
    `/etc/resolv.conf`."""
    dns_timeout: DurationS = Field(default=5.0, gt=0, le=60)
    """How long all DNS look-ups of one message may take together. What is not known by then is `temperror`."""
    dmarc: Literal["report", "enforce"] = "report"
    """`report`: only write the result. `enforce`: do what the author's domain asks for: `reject` refuses the message,
    `quarantine` puts it aside."""
    authserv_id: str = Field(default="", pattern=r"^[A-Za-z0-9.-]{0,253}$")
    """Our name in `Authentication-Results`. Absent: `server.hostname`. Fields that arrive with it are removed."""
    trusted_sealers: tuple[str, ...] = Field(default=(), strict=False, max_length=1000)
    """Domains of forwarders whose ARC seal is believed: their mail is not refused for DMARC if the chain is intact."""

    @field_validator("trusted_sealers")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each.lower().rstrip(".") for each in value)
