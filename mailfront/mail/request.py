"""What the edge asks of intake at MAIL: the start of one message, before there is an id or a recipient."""

from dataclasses import dataclass

from mailfront.mail.address import Address
from mailfront.mail.client import ClientInfo
from mailfront.mail.envelope import BodyType


@dataclass(frozen=True, slots=True, kw_only=True)
class MailRequest:
    """What MAIL asked for. `size_bytes` is the client's own estimate (SIZE=), or None."""

    client: ClientInfo
    reverse_path: Address | None
    size_bytes: int | None = None
    body_type: BodyType = BodyType.SEVENBIT
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None
