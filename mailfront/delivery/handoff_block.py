"""The block in front of a copy that waits in a secondary's handoff mailbox.

    Date: ...
    Message-ID: <0j3x....store2@handoff.mailfront.invalid>
    Mailfront-Handoff: v1 id=0j3x... home=store2
    \tenvelope=<base64 of JSON>
    \tsha256=<hex of the message after the block>
    \thmac=<hex, HMAC-SHA256 over all of the above>

The two lines above the block are for the holder's server. Cyrus adds a Date and a Message-ID to a message that lacks
one, inside the message, and silently drops a message whose Message-ID it has seen: so each copy brings its own. The
holder puts lines of its own above all this (Return-Path, Delivered-To); `open_block` therefore looks for the block at
the start of a line and drops what stands above. The message after the block is given back exactly
as it was sent, with a final CRLF if it had none. `Mailfront-*` lines from outside are stripped at the door and the
HMAC key never leaves the front ends, so a block that verifies is ours. A block is at most `MAX_BLOCK_BYTES` long.
"""

import binascii
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate

import orjson

from mailfront.base.errors import MailfrontError
from mailfront.base.ids import MessageId, is_message_id
from mailfront.base.secret import Secret
from mailfront.mail.body import BodyRef
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser

MAX_BLOCK_BYTES = 2 * 1024 * 1024
_FOLD_CHARS = 900
_START = re.compile(rb"^Mailfront-Handoff: v1 ", re.MULTILINE)
_BLOCK = re.compile(
    rb"Mailfront-Handoff: v1 id=(?P<id>[0-9a-z]{16}) home=(?P<home>[!-~]{1,255})\r\n"
    rb"\tenvelope=(?P<envelope>[A-Za-z0-9+/=\r\n\t]+)\r\n"
    rb"\tsha256=(?P<sha256>[0-9a-f]{64})\r\n"
    rb"\thmac=(?P<hmac>[0-9a-f]{64})\r\n"
)


class BlockInvalid(MailfrontError):
    """The copy carries no block, a damaged one, or one that is not ours. Hold it and raise an alarm; never deliver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffRecipient:
    """One mailbox that the copy is meant for. `number` is its number in the message's rows."""

    number: int
    address: str
    mailbox_key: MailboxKey
    node_user: NodeUser
    options: RecipientOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffEnvelope:
    """What the drain needs to deliver the copy as if the home had never been away. `reverse_path` None: null sender."""

    id: MessageId
    home: NodeId
    reverse_path: str | None
    body_type: str
    smtputf8: bool
    ret: str | None
    envid: str | None
    arrived_s: float
    recipients: tuple[HandoffRecipient, ...]


def write_block(envelope: HandoffEnvelope, body: BodyRef, secret: Secret) -> bytes:
    """Make the block for a message. Reads the whole body once, for its hash."""
    payload = {
        "reverse_path": envelope.reverse_path,
        "body_type": envelope.body_type,
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret,
        "envid": envelope.envid,
        "arrived_s": envelope.arrived_s,
        "recipients": [
            [to.number, to.address, to.mailbox_key, to.node_user, to.options.notify, to.options.orcpt]
            for to in envelope.recipients
        ],
    }
    text = b64encode(orjson.dumps(payload))
    folded = b"\r\n\t".join(text[at : at + _FOLD_CHARS] for at in range(0, len(text), _FOLD_CHARS))
    signed = b"Mailfront-Handoff: v1 id=%s home=%s\r\n\tenvelope=%s\r\n\tsha256=%s\r\n" % (
        envelope.id.encode(),
        envelope.home.encode(),
        folded,
        _sha256(body.pieces()).encode(),
    )
    own = (
        f"Date: {formatdate(envelope.arrived_s)}\r\n"
        f"Message-ID: <{envelope.id}.{envelope.home}@handoff.mailfront.invalid>\r\n"
    )
    return own.encode() + signed + b"\thmac=%s\r\n" % _hmac(signed, secret).encode()


def open_block(head: bytes, secret: Secret) -> tuple[HandoffEnvelope, int, str]:
    """Read and verify the block of a copy whose first bytes are `head` (`MAX_BLOCK_BYTES` are always enough).

    Returns the envelope, the offset at which the original message starts, and the SHA-256 that the message must have
    (check it with `message_matches`). Raises BlockInvalid.
    """
    start = _START.search(head)
    block = None if start is None else _BLOCK.match(head, start.start())
    if block is None:
        raise BlockInvalid("there is no complete Mailfront-Handoff block")
    signed = head[block.start() : block.start("hmac") - len(b"\thmac=")]
    if not hmac.compare_digest(_hmac(signed, secret), block["hmac"].decode()):
        raise BlockInvalid("the block's HMAC does not fit: it was changed, or storage.secret_file is another one")
    try:
        payload = orjson.loads(b64decode(b"".join(block["envelope"].split())))
        recipients = tuple(
            HandoffRecipient(
                number=number,
                address=address,
                mailbox_key=MailboxKey(key),
                node_user=NodeUser(user),
                options=RecipientOptions(notify=notify, orcpt=orcpt),
            )
            for number, address, key, user, notify, orcpt in payload.pop("recipients")
        )
        envelope = HandoffEnvelope(
            id=MessageId(block["id"].decode()), home=NodeId(block["home"].decode()), recipients=recipients, **payload
        )
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
        raise BlockInvalid("the block's envelope cannot be read; it was written by another version") from error
    if not is_message_id(envelope.id):
        raise BlockInvalid("the block's id is not a message id")
    return envelope, block.end(), block["sha256"].decode()


def message_matches(pieces: Iterator[bytes], sha256: str) -> bool:
    """Whether the bytes after the block are still the ones that were handed off."""
    return hmac.compare_digest(_sha256(pieces), sha256)


def _sha256(pieces: Iterator[bytes]) -> str:
    """Hash a message as a mailbox keeps it: ending in CRLF."""
    digest, tail = hashlib.sha256(), b""
    for piece in pieces:
        digest.update(piece)
        tail = (tail + piece)[-2:]
    if tail != b"\r\n":
        digest.update(b"\r\n")
    return digest.hexdigest()


def _hmac(signed: bytes, secret: Secret) -> str:
    return hmac.new(secret.reveal(), signed, "sha256").hexdigest()
