"""What each admin verb may be asked with. Checked before a service sees it; mistakes become one line."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mailfront.admin.errors import AdminError, Kind
from mailfront.net.networks import canonical_ip

R = TypeVar("R", bound="Request")

MOST_ROWS_COUNT = 10_000


class Request(BaseModel):
    """Base of all requests: strict, frozen, nothing unknown."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Nothing(Request):
    """A verb without arguments."""


class AddressRequest(Request):
    """A verb about one mail address."""

    address: str = Field(min_length=1, max_length=320)


class IdRequest(Request):
    """A verb about one message."""

    id: str = Field(min_length=1, max_length=64)


class ShowRequest(IdRequest):
    """`queue show`: one message, and on demand its header or all of its text."""

    part: Literal["headers", "body"] | None = None


class CheckRequest(Request):
    """`queue check`: with or without all bytes of all bodies."""

    bodies: bool = False


class PieceRequest(IdRequest):
    """One piece of a stored body."""

    number: int = Field(ge=0, le=1_000_000)


class TraceRequest(Request):
    """`trace`: a message id or an address."""

    wanted: str = Field(min_length=1, max_length=320)


class NodeRequest(Request):
    """A verb that changes one node."""

    node: str = Field(min_length=1, max_length=64)
    reason: str = Field(default="", max_length=500)


_Words = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=320)], ...], Field(strict=False, max_length=1000)
]


class Selection(Request):
    """Which rows: all conditions that are given must hold; of several values of one condition, any.

    `older_s`: seconds since the message arrived.
    """

    ids: _Words = ()
    senders: _Words = ()
    recipients: _Words = ()
    nodes: _Words = ()
    states: _Words = ()
    older_s: float | None = Field(default=None, ge=0)


class ListRequest(Selection):
    """One page of rows. `after` is the `next` of the page before."""

    limit: int = Field(default=100, ge=1, le=MOST_ROWS_COUNT)
    after: tuple[str, int] = Field(default=("", -1), strict=False)


class ChangeRequest(Selection):
    """A change of rows. Without any selector `everything` must say that all rows are meant."""

    everything: bool = False
    dry_run: bool = False
    reason: str = Field(default="", max_length=500)


class RedirectRequest(ChangeRequest):
    """A change of rows that gives them another address."""

    to: str = Field(min_length=1, max_length=320)


class ExportRequest(Selection):
    """One page of messages with their selected recipients. `after` is the `next` of the page before."""

    everything: bool = False
    reason: str = Field(default="", max_length=500)
    after: tuple[str, int] = Field(default=("", -1), strict=False)


class SessionConditions(Request):
    """Which sessions: all conditions that are given must hold; of several values of one condition, any."""

    ids: _Words = ()
    users: _Words = ()
    nodes: _Words = ()
    addresses: _Words = ()
    protocols: _Words = ()


class SessionListRequest(SessionConditions):
    """The oldest of the sessions that match."""

    limit: int = Field(default=100, ge=1, le=MOST_ROWS_COUNT)


class KickRequest(SessionConditions):
    """End sessions. Without any condition `everything` must say that all are meant."""

    everything: bool = False
    dry_run: bool = False
    reason: str = Field(default="", max_length=500)


class UserKickRequest(AddressRequest):
    """End all sessions of one person."""

    dry_run: bool = False
    reason: str = Field(default="", max_length=500)


class FilterTestRequest(Request):
    """A message for the filters, in base64, and its envelope. `sender` '' is the null sender; `to` may be empty."""

    message: str
    sender: str = Field(default="", max_length=320)
    to: tuple[str, ...] = Field(default=(), strict=False, max_length=100)
    ip: str = Field(default="192.0.2.1", max_length=64)
    helo: str = Field(default="localhost", max_length=255)

    @field_validator("ip")
    @classmethod
    def _is_ip(cls, value: str) -> str:
        return canonical_ip(value)


def read(model: type[R], arguments: dict[str, Any]) -> R:
    """Check a request's arguments. Raises AdminError that names what is wrong."""
    try:
        return model.model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise AdminError(f"{where}: {first['msg']}", Kind.USAGE) from error
