"""Telling senders: from rows that ended to notices in the queue, inside the transaction that ends the rows.

Who is told at all: nobody whose domain denies (by SPF or DMARC) that the message came from it, for then the sender is
forged and he would hear of what a stranger sent. Clients in `warn_networks` are believed. A list's owner is no sender:
he is told in any case.

| row | notice |
|---|---|
| refused for good, or its lifetime is over | failed, unless the sender asked for none (NOTIFY) |
| delivered, and the sender asked to be told | delivered; relayed where the next hop will not tell |
| still waiting after `warn_after_s` | delayed, once, to senders who are proven or behind a client of `warn_networks` |

A notice is a message with the null reverse-path to one address whose home nobody knows yet: its next hop is `RESOLVE`.
About a message that has the null reverse-path itself nobody is told (RFC 5321 section 6.1): a failure of it goes to
`double_bounce`, if that is set, and is recorded as an event in any case. Such a notice carries an ENVID of its own by
which it is known if it fails too, wherever forwards have sent it by then: about that nobody is told any more.

A row is deleted only in the transaction that keeps its notice, so no crash loses the one or doubles the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from mailfront.base.ids import new_message_id
from mailfront.base.printable import printable
from mailfront.mail.envelope import BodyType, RecipientOptions
from mailfront.mail.names import NodeUser
from mailfront.mail.next_hop import NEXT_HOP_BUCKET, RESOLVE, next_hop_key
from mailfront.observe import metrics
from mailfront.observe.log import emit
from mailfront.queue.dsn import NoticeKind, NoticeRecipient, Reporter, build_dsn, needs_smtputf8, notify_wants
from mailfront.queue.rows import QueuedMessage, QueuedRecipient, RecipientState, reverse_path_of
from mailfront.store import message_rows, recipient_rows
from mailfront.store.errors import CorruptBody
from mailfront.store.writer import Connection

__all__ = ["Ended", "NoticeKind", "NoticePolicy", "Told", "report_told", "tell"]

MOST_SHOWN = 50
DOUBLE_BOUNCE = "double-bounce"
"""The ENVID of a notice to `double_bounce`."""
_FORGED = "the sender's domain denies that it is him"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticePolicy:
    """Who writes notices, how long one is tried, who is warned, and where failures of notices go."""

    reporter: Reporter
    lifetime_s: float
    warn_after_s: float
    double_bounce: str | None = None
    warn_networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def may_tell(self, message: QueuedMessage) -> bool:
        """Whether anything is told to the sender: not if his domain says that it is not him."""
        return message.sender_proven is not False or self._is_listed(message)

    def may_warn(self, message: QueuedMessage) -> bool:
        """Whether a delay is told: only where the sender is hardly forged."""
        return message.reverse_path is not None and (message.sender_proven is True or self._is_listed(message))

    def _is_listed(self, message: QueuedMessage) -> bool:
        if not message.client_ip:
            return False
        try:
            client = ip_address(message.client_ip)
        except ValueError:
            return False
        return any(client in network for network in self.warn_networks if client.version == network.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One row and what the sender is to hear of it. `diagnostic`: the reply of the other server, or ''."""

    row: QueuedRecipient
    kind: NoticeKind
    status: str
    diagnostic: str = ""
    maybe_delivered: bool = False
    give_up_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was done about some recipients of a message. `notice` is the id of the notice, or '' if nobody is told."""

    about: str
    notice: str
    to: str
    kind: NoticeKind
    recipients: tuple[str, ...]
    reason: str = ""


def tell(
    connection: Connection, policy: NoticePolicy, message: QueuedMessage, ended: Sequence[Ended], now_s: float
) -> list[Told]:
    """Insert the notices that these rows need. The message's body must still be there. Changes no row."""
    told: list[Told] = []
    for (to, kind), group in _by_reader(message, ended).items():
        names = tuple(each.row.address for each in group)
        if to is None:
            told.append(_tell_nobody(connection, policy, message, kind, group, names, now_s))
            continue
        if to == message.reverse_path and not policy.may_tell(message):
            told.append(Told(about=message.id, notice="", to=to, kind=kind, recipients=names, reason=_FORGED))
            continue
        wanted = [each for each in group if notify_wants(each.row.options.notify, kind)]
        if len(wanted) < len(group):
            silent = tuple(each.row.address for each in group if each not in wanted)
            told.append(Told(about=message.id, notice="", to=to, kind=kind, recipients=silent, reason="not asked for"))
        if wanted:
            told.append(_insert(connection, policy, message, kind, wanted, to, now_s))
    return told


def report_told(told: Told) -> None:
    """Write the event of a notice that was committed, or of one that nobody gets; count it."""
    metrics.QUEUE_NOTICES.inc(told.kind.value if told.notice else "none")
    emit(
        "notice",
        id=told.about,
        notice=told.notice,
        kind=told.kind.value,
        recipient=printable(told.to, 400),
        about=[printable(name, 400) for name in told.recipients[:MOST_SHOWN]],
        recipients_count=len(told.recipients),
        reason=told.reason,
    )


def _by_reader(message: QueuedMessage, ended: Sequence[Ended]) -> Mapping[tuple[str | None, NoticeKind], list[Ended]]:
    groups: dict[tuple[str | None, NoticeKind], list[Ended]] = {}
    for each in ended:
        groups.setdefault((reverse_path_of(message, each.row), each.kind), []).append(each)
    return groups


def _tell_nobody(
    connection: Connection,
    policy: NoticePolicy,
    message: QueuedMessage,
    kind: NoticeKind,
    group: Sequence[Ended],
    names: tuple[str, ...],
    now_s: float,
) -> Told:
    """The null reverse-path: the administrator may have a mailbox for such failures; it never gets one about itself."""
    to = policy.double_bounce
    if kind is NoticeKind.FAILED and to is not None and to not in names and message.envid != DOUBLE_BOUNCE:
        return _insert(connection, policy, message, kind, group, to, now_s, envid=DOUBLE_BOUNCE)
    return Told(about=message.id, notice="", to="", kind=kind, recipients=names, reason="the sender is null")


def _insert(
    connection: Connection,
    policy: NoticePolicy,
    message: QueuedMessage,
    kind: NoticeKind,
    group: Sequence[Ended],
    to: str,
    now_s: float,
    *,
    envid: str | None = None,
) -> Told:
    try:
        original = message_rows.get_chunk(connection, message.id, 0) or b""
    except CorruptBody:
        original = b""  # the envelope alone says enough
    notice_id = new_message_id(now_s)
    content = build_dsn(
        policy.reporter,
        message,
        kind,
        [_for_dsn(each) for each in group],
        to=to,
        original=original,
        now_s=now_s,
        notice_id=notice_id,
    )
    notice = QueuedMessage(
        id=notice_id,
        reverse_path=None,
        arrived_s=now_s,
        expires_s=now_s + policy.lifetime_s,
        size_bytes=len(content),
        body_type=BodyType.SEVENBIT if content.isascii() else BodyType.EIGHTBITMIME,
        smtputf8=not to.isascii() or needs_smtputf8(content),
        envid=envid,
    )
    row = QueuedRecipient(
        number=0,
        address=to,
        mailbox_key=next_hop_key(RESOLVE),
        bucket=NEXT_HOP_BUCKET,
        node_user=NodeUser(to),
        options=RecipientOptions(notify="NEVER"),
        state=RecipientState.WAITING,
        next_attempt_s=now_s,
    )
    message_rows.insert_message(connection, notice, message_rows.QUEUED, now_s)
    message_rows.insert_whole_body(connection, notice_id, content)
    recipient_rows.insert_recipients(connection, notice_id, now_s, [row])
    names = tuple(each.row.address for each in group)
    return Told(about=message.id, notice=notice_id, to=to, kind=kind, recipients=names)


def _for_dsn(each: Ended) -> NoticeRecipient:
    row = each.row
    return NoticeRecipient(
        address=row.address,
        status=each.status,
        diagnostic=each.diagnostic,
        orcpt=row.options.orcpt,
        last_attempt_s=row.tried_s or None,
        give_up_s=each.give_up_s,
        via=row.via,
        maybe_delivered=each.maybe_delivered,
    )
