"""Settings of `[intake]`, `[domains]` and `[postmaster]`."""

from pydantic import Field, field_validator

from mailfront.base.settings import DurationS, Settings
from mailfront.mail.address import parse_path


class IntakeSettings(Settings):
    """How one message is accepted."""

    deadline: DurationS = Field(default=30.0, gt=0, le=600)
    """From end of data to the reply. What is not delivered by then is queued."""
    max_received: int = Field(default=50, ge=1, le=1000)
    """More `Received` lines than this are a mail loop: `554 5.4.6`."""


class DomainsSettings(Settings):
    """Which domains are ours."""

    local: tuple[str, ...] = Field(min_length=1, strict=False)
    """Domains whose addresses the directory knows. Mail to any other domain is refused: mailfront is no open relay."""

    @field_validator("local")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if parse_path(f"a@{name}") is None or name.startswith("["):
                raise ValueError(f"{name!r} is not a domain name")
        return tuple(name.lower().removesuffix(".") for name in value)


class PostmasterSettings(Settings):
    """Who reads what is written to `postmaster`."""

    address: str
    """A local address that the directory knows. `<postmaster>` and `postmaster@` any local domain go there."""

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        address = parse_path(value)
        if address is None or not address.domain:
            raise ValueError(f"{value!r} is not an address")
        return value
