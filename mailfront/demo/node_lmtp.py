"""The LMTP server of a demo node: aiosmtpd's, with a DATA of its own (RFC 2033).

What aiosmtpd lacks and is added here: one reply per accepted recipient after the final dot, PIPELINING, and a body that
goes to the disk in pieces as it comes. What it is strict about: a bare CR or LF in a message is refused, so that a
front end that lets one through is found out.

Limits: a message `LARGEST_MESSAGE_BYTES`, a command line 2 KiB, 300 s without progress. A client that goes away before
it has its replies may find its message delivered all the same, as with any server.
"""

import asyncio
import logging
import ssl
from collections import defaultdict
from typing import Any

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session, syntax

from mailfront.demo.maildir import Incoming, Mailboxes
from mailfront.edge.decoder import DataDecoder

LARGEST_MESSAGE_BYTES = 64 * 1024 * 1024
_COMMAND_BYTES = 2048
_PIECE_BYTES = 1024 * 1024
_TOO_LARGE = "552 5.3.4 message too large"
_BARE_NEWLINE = "550 5.6.0 bare CR or LF in the message"
_TROUBLE = "451 4.3.0 internal trouble, try again later"

_log = logging.getLogger("mailfront.demo.lmtp")


class _Answers:
    """What aiosmtpd asks before it answers a command. The texts carry enhanced codes (RFC 2034)."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, name: str, lines: list[str]
    ) -> list[str]:
        """Offer two more extensions."""
        session.host_name = name
        return [*lines[:-1], "250-PIPELINING", "250 ENHANCEDSTATUSCODES"]

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take any sender; aiosmtpd writes the null sender as <>."""
        envelope.mail_from = address
        return "250 2.1.0 sender ok"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take the users of this node."""
        user = self._mailboxes.find(address)
        if user is None:
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(user)
        return "250 2.1.5 recipient ok"

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """RFC 5321 section 4.1.1.5."""
        return "250 2.0.0 ok"

    async def handle_NOOP(self, server: SMTP, session: Session, envelope: Envelope, arg: str) -> str:
        """RFC 5321 section 4.1.1.9."""
        return "250 2.0.0 ok"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """RFC 5321 section 4.1.1.10."""
        return "221 2.0.0 bye"

    async def handle_exception(self, error: Exception) -> str:
        """Whatever aiosmtpd or we did not foresee is our trouble."""
        _log.error("a command failed", exc_info=error)
        return _TROUBLE


class NodeLmtp(LMTP):
    """One connection."""

    line_length_limit = 64 * 1024
    command_size_limit = _COMMAND_BYTES

    def __init__(self, mailboxes: Mailboxes, *, hostname: str, tls_context: ssl.SSLContext | None) -> None:
        # aiosmtpd shares one table between all connections and grows it at each LHLO.
        self.command_size_limits = defaultdict(lambda: _COMMAND_BYTES)
        super().__init__(
            _Answers(mailboxes),
            data_size_limit=LARGEST_MESSAGE_BYTES,
            enable_SMTPUTF8=True,
            hostname=hostname,
            ident="LMTP",
            tls_context=tls_context,
            loop=asyncio.get_running_loop(),
        )
        self._mailboxes = mailboxes

    @syntax("DATA")
    async def smtp_DATA(self, arg: str) -> None:
        """RFC 2033 section 4.2."""
        envelope = self.envelope
        assert envelope is not None
        if arg:
            await self.push("501 5.5.4 syntax: DATA")
            return
        if not envelope.rcpt_tos:
            await self.push("503 5.5.1 no valid recipients")
            return
        try:
            incoming = self._mailboxes.receive()
        except OSError as error:
            _log.error("cannot take a message: %s", error)
            await self.push("452 4.3.1 no room for the message, try again later")
            return
        try:
            await self.push("354 end data with <CR><LF>.<CR><LF>")
            replies = await self._receive(incoming, envelope)
        finally:
            incoming.discard()
        self.envelope = self._create_envelope()
        await self.push("\r\n".join(replies))

    async def _receive(self, incoming: Incoming, envelope: Envelope) -> list[str]:
        """Read to the end of data and deliver. Returns one reply per recipient."""
        users: list[str] = envelope.rcpt_tos
        sender = "" if envelope.mail_from in (None, "<>") else envelope.mail_from
        incoming.write(f"Return-Path: <{sender}>\r\n".encode("utf-8", "surrogateescape"))
        decoder = DataDecoder(normalize=False)
        size_bytes = 0
        while not decoder.is_done:
            data = await self._reader.read(_PIECE_BYTES)
            if not data:
                raise ConnectionResetError("the client left before the end of its message")
            self._reset_timeout()
            body = decoder.receive(data)
            size_bytes += len(body)
            if size_bytes <= LARGEST_MESSAGE_BYTES:
                incoming.write(body)
        # The reader is empty now: it never holds as much as one read takes.
        if decoder.rest:
            self._reader.feed_data(decoder.rest)
        if decoder.has_bare_newline:
            return [_BARE_NEWLINE] * len(users)
        if size_bytes > LARGEST_MESSAGE_BYTES:
            return [_TOO_LARGE] * len(users)
        problems = await asyncio.to_thread(incoming.commit, users)
        return [
            f"452 4.3.1 <{user}> {problem}" if problem else f"250 2.0.0 <{user}> stored"
            for user, problem in zip(users, problems, strict=True)
        ]


def lmtp_factory(mailboxes: Mailboxes, *, hostname: str, tls_context: ssl.SSLContext | None = None) -> Any:
    """What `loop.create_server` calls for each connection."""
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    return lambda: NodeLmtp(mailboxes, hostname=hostname, tls_context=tls_context)
