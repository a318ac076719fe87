"""The envelope of one message: who sent it, to whom, with which promises."""

from dataclasses import dataclass, field
from enum import Enum

from mailfront.base.ids import MessageId
from mailfront.mail.address import Address
from mailfront.mail.client import ClientInfo


class BodyType(Enum):
    """BODY= of MAIL (RFC 6152). BINARYMIME is never offered."""

    SEVENBIT = "7BIT"
    EIGHTBITMIME = "8BITMIME"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientOptions:
    """DSN parameters of one RCPT (RFC 3461) as the client wrote them: case kept, xtext not decoded. None: not given."""

    notify: str | None = None
    orcpt: str | None = None


NO_OPTIONS = RecipientOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One message on its way. The body is never in here; it travels beside it as a `BodyRef`.

    `reverse_path` None is the null reverse-path. `arrived_s` is wall-clock time at MAIL. `ret` and `envid` are the DSN
    parameters of MAIL (RFC 3461) as written. `sender_proven`: see `Verdict`; known after the filters.
    """

    id: MessageId
    client: ClientInfo
    reverse_path: Address | None
    recipients: tuple[tuple[Address, RecipientOptions], ...]
    arrived_s: float
    body_type: BodyType = BodyType.SEVENBIT
    smtputf8: bool = False
    ret: str | None = field(default=None)
    envid: str | None = field(default=None)
    sender_proven: bool | None = None
