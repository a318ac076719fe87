"""Shows a message to a milter, and makes a verdict of what it says. See the package for what is what.

A kept connection that turns out to be closed is replaced once; a milter that fails after its first answer has failed.
"""

import re
from email.utils import formatdate

from mailfront import __version__
from mailfront.base.errors import RemoteProtocolError
from mailfront.filters.contract import Filter, FilterContext, FilterFailed, Message
from mailfront.filters.milter.link import MilterLink, open_link
from mailfront.filters.milter.settings import MilterSettings
from mailfront.mail import verdict as mail
from mailfront.mail.address import Address, parse_path
from mailfront.mail.body import RestOfBody
from mailfront.mail.reply import Reply
from mailfront.mail.verdict import CONTINUE, Verdict
from mailfront.protocol import milter_packets as packets
from mailfront.protocol.milter import ends_message
from mailfront.protocol.milter_packets import BODY_PIECE_BYTES, Decision, ReplyWith

MOST_BODY_BYTES = 64 * 1024 * 1024
MOST_NAME_BYTES, MOST_VALUE_BYTES = 998, 60 * 1024
"""What of a field is shown: libmilter ends the conversation at a packet over 64 KiB; no sender may bring that about."""
MOST_LINE_BYTES = 900
_LONG_LINE = re.compile(rb"[^\r\n]{%d}(?=[^\r\n \t])" % MOST_LINE_BYTES)
_LINE_END = re.compile(rb"\r\n|\r|\n")


class MilterFilter(Filter):
    """See the module."""

    def __init__(self, settings: MilterSettings, context: FilterContext) -> None:
        self._kept_connections = settings.kept_connections
        self._hosts = context.hosts(settings.address)
        self._idle: dict[str, list[MilterLink]] = {address: [] for address in settings.address}

    async def close(self) -> None:
        """See `Filter`."""
        for links in self._idle.values():
            while links:
                links.pop().close()

    async def data(self, message: Message) -> Verdict:
        """See `Filter`."""

        async def call(address: str) -> Verdict:
            return await self._ask(address, message)

        return await self._hosts.ask(call)

    async def _ask(self, address: str, message: Message) -> Verdict:
        """Show the message to the milter at `address`. Raises OSError, EOFError, FilterFailed."""
        link = await self._kept(address)
        if link is not None:
            conversation = _Conversation(link, message)
            try:
                return await self._converse(address, conversation)
            except (OSError, EOFError):
                if conversation.was_answered:
                    raise
        return await self._converse(address, _Conversation(await _open(address), message))

    async def _converse(self, address: str, conversation: "_Conversation") -> Verdict:
        link = conversation.link
        try:
            verdict = await conversation.run()
        except RemoteProtocolError as error:
            link.close()
            raise FilterFailed(str(error)) from error
        except BaseException:
            link.close()
            raise
        idle = self._idle[address]
        if link.can_be_kept and len(idle) < self._kept_connections:
            idle.append(link)
        else:
            link.close()
        return verdict

    async def _kept(self, address: str) -> MilterLink | None:
        idle = self._idle[address]
        while idle:
            link = idle.pop()
            if await link.is_quiet():
                return link
            link.close()
        return None


async def _open(address: str) -> MilterLink:
    try:
        return await open_link(address)
    except RemoteProtocolError as error:
        raise FilterFailed(str(error)) from error


class _Conversation:
    """One message on one link."""

    def __init__(self, link: MilterLink, message: Message) -> None:
        self.link = link
        self.was_answered = False
        self._message = message
        self._edits: list[mail.Edit] = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._quarantine = ""

    async def run(self) -> Verdict:
        """Show the message, until the milter has decided. Raises OSError, EOFError, RemoteProtocolError."""
        link, core, message = self.link, self.link.core, self._message
        macros = _macros(message)
        client, sender = message.client, message.reverse_path
        lead = core.new_client() if core.can_begin_anew else b""
        host = f"[{client.ip or 'localhost'}]"
        decided = await self._step(lead + core.connect(host, client.ip, client.port, macros))
        decided = decided or await self._step(core.helo(client.helo, macros))
        size = (f"SIZE={message.body.size_bytes}",)
        decided = decided or await self._step(core.mail(str(sender) if sender else "", size, macros))
        for recipient in message.bound:
            address = recipient.address
            named = macros | {
                "rcpt_addr": str(address),
                "rcpt_host": address.domain,
                "rcpt_mailer": "lmtp",
            }
            decided = decided or await self._step(core.recipient(str(address), (), named))
        decided = decided or await self._step(core.data(macros))
        decided = decided or await self._header()
        decided = decided or await self._step(core.end_of_headers(macros))
        decided = decided or await self._text()
        if decided is None:
            decided = await link.say(core.end_of_message(macros), self._edit)
        return self._verdict(decided)

    async def _header(self) -> Decision | ReplyWith | None:
        core = self.link.core
        for field in self._message.headers.fields:
            if field.name and len(field.name) <= MOST_NAME_BYTES:
                value = field.raw.partition(b":")[2].removesuffix(b"\r\n")[:MOST_VALUE_BYTES]
                decided = await self._step(core.header(field.name.encode("ascii"), value))
                if decided is not None:
                    return decided
        return None

    async def _text(self) -> Decision | ReplyWith | None:
        core, message = self.link.core, self._message
        for piece in RestOfBody(message.body, message.body_offset_bytes).pieces():
            for start in range(0, len(piece), BODY_PIECE_BYTES):
                answer = await self.link.say(core.body(piece[start : start + BODY_PIECE_BYTES]))
                if answer is Decision.SKIP:
                    return None
                if answer is not None and (ends_message(answer) or core.closed):
                    return answer
        return None

    async def _step(self, data: bytes) -> Decision | ReplyWith | None:
        """One step. None: go on."""
        answer = await self.link.say(data)
        self.was_answered = self.was_answered or answer is not None
        return answer if answer is not None and (ends_message(answer) or self.link.core.closed) else None

    def _edit(self, edit: packets.Edit) -> None:
        match edit:
            case packets.AddHeader(name, value, None):
                self._edits.append(mail.AddHeader(name, _text(value)))
            case packets.AddHeader(name, value, int() as index):
                self._edits.append(mail.InsertHeader(index, name, _text(value)))
            case packets.ChangeHeader(name, b"", index):
                self._edits.append(mail.DeleteHeader(name, index))
            case packets.ChangeHeader(name, value, index):
                self._edits.append(mail.ChangeHeader(name, index, _text(value)))
            case packets.AddRecipient(path):
                self._edits.append(mail.AddRecipient(_address(path)))
            case packets.DeleteRecipient(path):
                self._edits.append(mail.DeleteRecipient(_address(path)))
            case packets.ChangeFrom(path):
                self._edits.append(mail.ChangeSender(_address(path) if path else None))
            case packets.ReplaceBody(piece):
                self._body_bytes += len(piece)
                if self._body_bytes > MOST_BODY_BYTES:
                    raise RemoteProtocolError(f"a new body of more than {MOST_BODY_BYTES} bytes")
                self._body.append(piece)
            case packets.Quarantine(reason):
                self._quarantine = reason or "the milter gave no reason"

    def _verdict(self, decided: Decision | ReplyWith | None) -> Verdict:
        match decided:
            case ReplyWith(reply):
                return _refusal(reply)
            case Decision.REJECT:
                return Verdict.reject("refused by policy", reason="the milter said reject")
            case Decision.TEMPFAIL:
                return Verdict.tempfail("try again later", reason="the milter said tempfail")
            case Decision.SHUTDOWN:
                return Verdict.tempfail("try again later", reason="the milter said shutdown")
            case Decision.DISCARD:
                return Verdict.discard("the milter said discard")
            case Decision.CONNECTION_FAILURE:
                raise FilterFailed("the milter reports a failure of the connection")
            case _:
                pass
        if self._body:
            self._edits.append(mail.ReplaceBody(_LINE_END.sub(b"\r\n", b"".join(self._body))))
        edits = tuple(self._edits)
        if self._quarantine:
            return Verdict.quarantine(self._quarantine, edits=edits)
        return Verdict(edits=edits) if edits else CONTINUE


def _refusal(reply: Reply) -> Verdict:
    make = Verdict.reject if reply.is_permanent else Verdict.tempfail
    return make(reply.text, code=reply.code, enhanced=reply.enhanced)


def _text(value: bytes) -> str:
    """A field's value. A line that is too long for a field is folded: milters repeat what senders write, such as a
    subject, and none of them may make this filter fail."""
    if len(value) > MOST_LINE_BYTES:
        value = _LONG_LINE.sub(rb"\g<0>\r\n\t", value)
    return value.decode("utf-8", "surrogateescape")


def _address(path: str) -> Address:
    address = parse_path(path)
    if address is None:
        raise RemoteProtocolError(f"{path!r} is not an address")
    return address


def _macros(message: Message) -> dict[str, str]:
    """The values of macros by name, without braces. What is not known is absent: an empty one would be believed."""
    client, sender = message.client, message.reverse_path
    literal = f"IPv6:{client.ip}" if ":" in client.ip else client.ip
    protocol, _, cipher = client.tls.partition(" ")
    known = {
        "j": message.hostname,
        "i": message.id,
        "v": f"mailfront {__version__}",
        "b": formatdate(message.arrived_s),
        "_": f"[{literal}]" if client.ip else "localhost",
        "r": client.protocol,
        "s": client.helo,
        "client_addr": client.ip,
        "client_name": f"[{literal}]" if client.ip else "localhost",
        "client_port": str(client.port) if client.ip else "",
        "daemon_name": client.listener or "mailfront",
        "tls_version": protocol,
        "cipher": cipher,
        "mail_addr": str(sender) if sender else "",
        "mail_host": sender.domain if sender else "",
        "mail_mailer": "esmtp",
    }
    return {name: value for name, value in known.items() if value}
