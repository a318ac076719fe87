"""The form of exported messages, and `queue import` in the keeper.

The form is written down for people in `docs/reference/queue-export.md`; `FORMAT` and `VERSION` name it. What is not
there when it is read has its default, and what is not known is refused: a file of a newer mailfront may mean more than
this one understands.
"""

import base64
import binascii
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.requests import Request
from mailfront.base.clock import Clock
from mailfront.base.ids import MessageId, is_message_id
from mailfront.base.printable import printable
from mailfront.mail.envelope import NO_OPTIONS, BodyType, RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.observe import log
from mailfront.queue.exports import ExportedMessage
from mailfront.queue.imports import Imported, QueueImport, fits_one_piece
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, RecipientState
from mailfront.store.audit_rows import AuditRow

FORMAT, VERSION = "mailfront-queue", 1
MOST_RECIPIENTS = 50_000

_Name = Annotated[str, Field(min_length=1, max_length=400)]
_Text = Annotated[str, Field(max_length=1000)]
_Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
_LEFT_OUT: dict[str, Any] = {
    "notify": None, "orcpt": None, "attempts": 0, "tried_s": 0.0, "blame": "", "last_reply": "", "reason": "",
    "node": None, "via": "", "list_owner": None, "warned": False,
}  # fmt: skip


class _Document(Request):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class MessageDocument(_Document):
    """A message without its body. See `QueuedMessage` for what the names mean."""

    id: str
    reverse_path: _Name | None
    arrived_s: _Seconds
    expires_s: _Seconds
    size_bytes: int = Field(ge=0, le=2**40)
    body_type: str
    smtputf8: bool
    ret: _Text | None
    envid: _Text | None
    client_ip: _Text
    sha256: _Text
    sender_proven: bool | None = None

    def value(self) -> QueuedMessage:
        """What it says. Raises ValueError."""
        if not is_message_id(self.id):
            raise ValueError(f"{printable(self.id, 40)!r} is not a message id")
        return QueuedMessage(**{**self.model_dump(), "id": MessageId(self.id), "body_type": BodyType(self.body_type)})


class RecipientDocument(_Document):
    """One recipient. See `QueuedRecipient` for what the names mean; `bucket` and the lease are not exported."""

    number: int = Field(ge=0, lt=2**31)
    address: _Name
    mailbox_key: _Name
    node_user: _Name
    state: str
    next_attempt_s: _Seconds
    notify: _Text | None = None
    orcpt: _Text | None = None
    attempts: int = Field(default=0, ge=0)
    tried_s: _Seconds = 0.0
    blame: _Text = ""
    last_reply: _Text = ""
    reason: _Text = ""
    node: _Name | None = None
    via: _Text = ""
    list_owner: _Text | None = None
    warned: bool = False

    def value(self) -> QueuedRecipient:
        """What it says. Raises ValueError."""
        given = self.model_dump(exclude={"notify", "orcpt"})
        is_plain = self.notify is None and self.orcpt is None
        return QueuedRecipient(
            **{
                **given,
                "bucket": 0,
                "mailbox_key": MailboxKey(self.mailbox_key),
                "node_user": NodeUser(self.node_user),
                "node": None if self.node is None else NodeId(self.node),
                "state": RecipientState(self.state),
                "options": NO_OPTIONS if is_plain else RecipientOptions(notify=self.notify, orcpt=self.orcpt),
            }
        )


class ImportNote(Request):
    """Who imports what. The answer is the number that `ImportRequest.audit` names."""

    source: str = Field(max_length=300)
    reason: str = Field(default="", max_length=500)


class ImportRequest(Request):
    """One message. `cluster` is where it was exported; `data` is its body in base64, if that is one piece."""

    cluster: str = Field(max_length=200)
    resolve: bool = False
    message: MessageDocument
    recipients: tuple[RecipientDocument, ...] = Field(strict=False, min_length=1, max_length=MOST_RECIPIENTS)
    data: str | None = None
    audit: int = 0


class ImportPiece(Request):
    """One piece of a body that takes several."""

    id: str = Field(max_length=64)
    number: int = Field(ge=0, le=1_000_000)
    data: str


def show_exported(found: ExportedMessage) -> dict[str, Any]:
    """A message in the form of the file."""
    message = asdict(found.message) | {"body_type": found.message.body_type.value}
    return {"message": message, "recipients": [_recipient(row) for row in found.recipients]}


def _recipient(row: QueuedRecipient) -> dict[str, Any]:
    """A row without what is as usual: a list of 5,000 members is one line."""
    values = {
        "number": row.number,
        "address": row.address,
        "mailbox_key": row.mailbox_key,
        "node_user": row.node_user,
        "state": row.state.value,
        "next_attempt_s": row.next_attempt_s,
        "notify": row.options.notify,
        "orcpt": row.options.orcpt,
        **{name: getattr(row, name) for name in _LEFT_OUT if name not in ("notify", "orcpt")},
    }
    return {name: value for name, value in values.items() if name not in _LEFT_OUT or value != _LEFT_OUT[name]}


class QueueExchange:
    """`queue import`: checks what comes, and gives it to the queue. `cluster` is ours."""

    def __init__(self, imports: QueueImport, *, cluster: str, clock: Clock) -> None:
        self._imports = imports
        self._cluster = cluster
        self._clock = clock

    async def note(self, request: ImportNote, *, uid: int) -> int:
        """Write the import down before it begins."""
        source, reason = printable(request.source, 300), printable(request.reason, 500)
        log.emit("admin_action", verb="queue import", selector=source, reason=reason, uid=uid)
        return await self._imports.note(
            AuditRow(at_s=self._clock.wall_s(), uid=uid, verb="queue import", selector=source, reason=reason)
        )

    async def begin(self, request: ImportRequest) -> dict[str, Any]:
        """Ask whether the body of a message is wanted."""
        message, recipients = _values(request)
        return _answer(await self._imports.begin(message, [row.number for row in recipients]))

    async def put(self, request: ImportPiece) -> None:
        """Take one piece of a body."""
        if not is_message_id(request.id):
            raise AdminError("that is not a message id", Kind.USAGE)
        await self._imports.put(MessageId(request.id), request.number, _decoded(request.data))

    async def commit(self, request: ImportRequest, *, uid: int) -> dict[str, Any]:
        """Take a message in."""
        message, recipients = _values(request)
        data = None if request.data is None else _decoded(request.data)
        if data is not None and (len(data) != message.size_bytes or not fits_one_piece(len(data))):
            raise AdminError(f"{message.id}: the body has {len(data)} bytes, not {message.size_bytes}", Kind.USAGE)
        done = await self._imports.commit(
            message,
            recipients,
            keep_keys=request.cluster == self._cluster and not request.resolve,
            data=data,
            audit_number=request.audit,
        )
        if done.rows_count:
            sender = printable(message.reverse_path or "", 400)
            log.emit("queue_imported", id=message.id, reverse_path=sender, rows_count=done.rows_count, by=f"uid {uid}")
        return _answer(done)


def _answer(done: Imported) -> dict[str, Any]:
    return {"answer": done.answer.value, "recipients": done.rows_count}


def _values(request: ImportRequest) -> tuple[QueuedMessage, list[QueuedRecipient]]:
    try:
        rows = [each.value() for each in request.recipients]
        if len({row.number for row in rows}) < len(rows):
            raise ValueError("two recipients have the same number")
        return request.message.value(), rows
    except (ValueError, ValidationError) as error:
        raise AdminError(f"{printable(request.message.id, 40)}: {printable(str(error), 300)}", Kind.USAGE) from error


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AdminError("a body is not base64", Kind.USAGE) from error
