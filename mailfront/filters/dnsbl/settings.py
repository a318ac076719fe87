"""Settings of the kind `dnsbl`."""

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator

from mailfront.base.settings import DurationS, Settings
from mailfront.net.dns_settings import NameServers
from mailfront.net.networks import Network, Networks, parse_network

_ZONE = r"^[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,200}[A-Za-z0-9_])?$"

_Answers = Annotated[
    tuple[Annotated[Network, BeforeValidator(parse_network), PlainSerializer(str, return_type=str)], ...],
    Field(strict=False, max_length=100),
]


class ListSettings(Settings):
    """One DNS list."""

    zone: str = Field(pattern=_ZONE)
    """Its domain: `"zen.spamhaus.org"`. Many lists want to be asked through a resolver of your own."""
    weight: int = Field(default=1, ge=-1000, le=1000)
    """What a listing adds. Negative: a list of good addresses."""
    answers: _Answers = ()
    """Which answers count, as networks in 127.0.0.0/8: `["127.0.0.2", "127.0.0.4/30"]`. Absent: all."""


class DnsblSettings(Settings):
    """Which lists are asked, and from which score on a client is refused."""

    lists: tuple[ListSettings, ...] = Field(strict=False, min_length=1, max_length=50)
    """The lists, all asked at the same time: `{ zone = "...", weight = 2 }`."""
    reject_at: int = Field(default=1, ge=1, le=100_000)
    """From this sum of weights on a client is refused."""
    exempt: Networks = ()
    """Clients that are never looked up."""
    name_servers: NameServers = ()
    """Addresses of recursive name servers, such as `"127.0.0.1"` or `"127.0.0.1:5353"`. Absent: those of
    `/etc/resolv.conf`."""
    dns_timeout: DurationS = Field(default=2.0, gt=0, le=60)
    """How long all lists together may take. One that has not answered by then scores nothing."""

    @field_validator("lists")
    @classmethod
    def _each_once(cls, value: tuple[ListSettings, ...]) -> tuple[ListSettings, ...]:
        zones = [each.zone.lower() for each in value]
        if doubled := sorted({zone for zone in zones if zones.count(zone) > 1}):
            raise ValueError(f"{', '.join(doubled)}: named more than once")
        return value
