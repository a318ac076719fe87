"""The messages of one client: MAIL, RCPT, DATA, BDAT. What is read here goes to intake.

Order of the dialogue: hello (`mailfront.edge.dialogue`), MAIL, RCPT..., then DATA or BDAT chunks. The two are
never mixed in one message. After end of data nothing that the client does reaches `commit`: one that goes away is not
answered, and that is all.

A message that cannot be taken is still read to its end, up to a bound, so that the reply finds a listening client.
What is never done: relaying (intake decides), guessing where a command begins after a fault.
"""

import re
from collections.abc import Mapping
from typing import ClassVar

from mailfront.base.errors import Unavailable
from mailfront.edge.arguments import read_mail, read_rcpt
from mailfront.edge.connection import log
from mailfront.edge.decoder import ChunkDecoder, DataDecoder
from mailfront.edge.dialogue import NESTED_MAIL, EdgeDialogue
from mailfront.edge.port import Transaction
from mailfront.mail.body import BodyRef
from mailfront.mail.reply import Reply, reply
from mailfront.mail.request import MailRequest
from mailfront.net.body import BodyRefused, BodyWriter
from mailfront.observe import metrics

READ_ON_FACTOR = 2
"""A message that is too large is read on up to this many times the limit; beyond, the connection is closed."""

_START_INPUT = b"354 End data with <CR><LF>.<CR><LF>\r\n"
_SENDER_OK = b"250 2.1.0 Sender ok\r\n"
_NEED_HELO = b"503 5.5.1 say hello first\r\n"
_NEED_MAIL = b"503 5.5.1 need MAIL first\r\n"
_NEED_RCPT = b"503 5.5.1 no valid recipients\r\n"
_MIXED = b"503 5.5.1 BDAT was begun: DATA and RCPT are not possible now\r\n"
_TOO_LARGE = reply(552, "5.3.4", "message too large")
_ENDLESS = reply(552, "5.3.4", "message far too large, closing the connection")
_NO_ROOM = reply(452, "4.3.1", "no room for the message now, try again later")
_BARE = reply(521, "5.5.2", "bare newline received, closing the connection")
_BAD_BDAT = reply(501, "5.5.4", "Syntax: BDAT size [LAST], closing the connection")
_TROUBLE = "internal trouble, try again later"
_BDAT = re.compile(r"([0-9]{1,18})(?: +(LAST))?", re.IGNORECASE)


class EdgeSession(EdgeDialogue):
    """The dialogue of one SMTP client."""

    commands: ClassVar[Mapping[str, str]] = {
        name: f"smtp_{name}"
        for name in (
            "HELO", "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP", "STARTTLS",
            "AUTH", "XCLIENT", "XFORWARD", "PROXY",
        )
    }  # fmt: skip
    per_recipient: ClassVar[bool] = False

    _transaction: Transaction | None = None
    _writer_of_body: BodyWriter | None = None
    _accepted_count = 0
    _smtputf8 = False
    _chunks: ChunkDecoder | None = None

    # The envelope.

    async def smtp_MAIL(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.2."""
        if not self.helo:
            self.say(_NEED_HELO)
            return
        if self._transaction is not None:
            self.say(NESTED_MAIL)
            return
        read = read_mail(arg, extended=self.is_extended, dsn=self.offers_dsn)
        if isinstance(read, Reply):
            self._reject(read)
            return
        size_bytes = read.size_bytes
        if size_bytes is not None and size_bytes > self.listener.size_limit_bytes:
            metrics.EDGE_REJECTIONS.inc("message_size")
            self._reject(_TOO_LARGE)
            return
        self._drop_body()
        body = self.listener.budget.open(size_bytes)
        if body is None:
            metrics.EDGE_REJECTIONS.inc("body_disk")
            self._reject(_NO_ROOM)
            return
        self._writer_of_body = body
        answer = self.listener.intake.begin(
            MailRequest(
                client=self.client_info(),
                reverse_path=read.reverse_path,
                size_bytes=size_bytes,
                body_type=read.body_type,
                smtputf8=read.smtputf8,
                ret=read.ret,
                envid=read.envid,
            ),
            self.findings,
        )
        if isinstance(answer, Reply):
            self._drop_body()
            self._reject(answer)
            return
        if answer.asks_at_mail and (refusal := await answer.mail()) is not None:
            self._drop_body()
            self._reject(refusal)
            return
        self._transaction = answer
        self._smtputf8 = read.smtputf8
        self.stage = "mail"
        self.stream.write(_SENDER_OK)

    async def smtp_RCPT(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.3."""
        transaction = self._transaction
        if transaction is None:
            self.say(_NEED_MAIL)
            return
        if self._chunks is not None:
            self.say(_MIXED)
            return
        read = read_rcpt(arg, extended=self.is_extended, dsn=self.offers_dsn, smtputf8=self._smtputf8)
        if isinstance(read, Reply):
            self._reject(read)
            return
        limit_count = self.listener.limits.recipients
        if self._accepted_count >= limit_count:
            metrics.EDGE_REJECTIONS.inc("recipients")
            self.stream.write(f"452 4.5.3 more than {limit_count} recipients, send the rest separately\r\n".encode())
            return
        self.stage = "rcpt"
        answer = await transaction.rcpt(*read)
        if answer.is_positive:
            self._accepted_count += 1
            self.stream.write(answer.wire())
        else:
            self._reject(answer)

    def _reject(self, answer: Reply) -> None:
        self.rejected_count += 1
        self.say(answer)

    # The body.

    async def smtp_DATA(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.4."""
        if arg:
            self.say(b"501 5.5.4 Syntax: DATA\r\n")
        elif self._transaction is None:
            self.say(_NEED_MAIL)
        elif self._chunks is not None:
            self.say(_MIXED)
        elif not self._accepted_count:
            self.say(_NEED_RCPT)
        else:
            self.stage = "data"
            self.early_count += self.stream.has_input
            self.stream.write(_START_INPUT)
            refusal = await self._receive_data()
            await self._end_of_data(refusal)

    async def _receive_data(self) -> Reply | None:
        """Read up to the end of data. Returns the reply that refuses the message, or None."""
        stream, limits = self.stream, self.listener.limits
        decoder = DataDecoder(normalize=self.listener.normalize_newlines)
        read_on_bytes = limits.message_size * READ_ON_FACTOR
        refusal: Reply | None = None
        received_bytes = 0
        stream.begin_upload()
        while not decoder.is_done:
            data = await stream.read_some()
            received_bytes += len(data)
            body = decoder.receive(data)
            if body and refusal is None:
                refusal = await self._keep(body)
            if received_bytes > read_on_bytes:
                self.leave(_ENDLESS, end="limit", reason="message_size")
        stream.end_upload()
        stream.unread(decoder.rest)
        if decoder.has_bare_newline and not self.listener.normalize_newlines:
            self.leave(_BARE, end="protocol", reason="bare_newline")
        return refusal

    async def _keep(self, data: bytes) -> Reply | None:
        """Add to the body. Returns the reply that refuses the message from now on, or None."""
        writer = self._writer_of_body
        assert writer is not None
        if writer.size_bytes + len(data) > self.listener.size_limit_bytes:
            metrics.EDGE_REJECTIONS.inc("message_size")
            writer.discard()
            return _TOO_LARGE
        return await self._spill(writer) if writer.write(data) else None

    async def _spill(self, writer: BodyWriter) -> Reply | None:
        try:
            await writer.spill()
        except BodyRefused as error:
            metrics.EDGE_REJECTIONS.inc("body_disk")
            log.warning("no room for a message", reason=str(error), client_ip=self.ip)
            writer.discard()
            return _NO_ROOM
        # Our disk is not the client's slowness.
        self.stream.begin_upload()
        return None

    async def _end_of_data(self, refusal: Reply | None) -> None:
        """All bytes are here: commit them or refuse, and answer."""
        transaction, writer, count = self._transaction, self._writer_of_body, self._accepted_count
        assert transaction is not None
        assert writer is not None
        if refusal is None and writer.must_spill:
            refusal = await self._spill(writer)
            self.stream.end_upload()
        self.idle_commands_count = 0
        wanted_count = count if self.per_recipient else 1
        if refusal is not None:
            self.drop_transaction()
            replies: tuple[Reply, ...] = (refusal,) * wanted_count
        else:
            body = writer.finish()
            self.listener.body_bytes += body.size_bytes
            protocol = f"UTF8{self.protocol.removeprefix('E')}" if self._smtputf8 else self.protocol
            self._transaction = self._writer_of_body = None
            replies = await self._commit(transaction, body, protocol, wanted_count)
            self.drop_transaction()
            self.forget_forwarded()
        self.stage = "idle"
        self.messages_count += replies[0].is_positive
        self.rejected_count += not replies[0].is_positive
        for answer in replies:
            self.say(answer)
        if self.stream.is_lost:
            self.reason = "the client left before the reply"

    async def _commit(
        self, transaction: Transaction, body: BodyRef, protocol: str, wanted_count: int
    ) -> tuple[Reply, ...]:
        """Let intake decide. Never raises for a fault of intake."""
        message_id = transaction.id
        self.is_busy = True
        try:
            # In this session's own task, which nobody can cancel: see `EdgeConnection.connection_made`.
            replies = await transaction.commit(body, protocol=protocol, per_recipient=self.per_recipient)
        except Exception as error:
            if not isinstance(error, Unavailable):
                log.error("a commit failed", id=message_id, client_ip=self.ip, exc_info=error)
            return (reply(451, "4.3.0", f"{message_id} {_TROUBLE}"),) * wanted_count
        finally:
            self.is_busy = False
        if len(replies) != wanted_count:
            log.error("wrong number of replies", id=message_id, wanted_count=wanted_count, got_count=len(replies))
            return (reply(451, "4.3.0", f"{message_id} {_TROUBLE}"),) * wanted_count
        return replies

    async def smtp_BDAT(self, arg: str | None) -> None:
        """RFC 3030. The chunk is always read, whatever becomes of it: only then is it known where commands go on."""
        match = _BDAT.fullmatch(arg or "")
        if match is None:
            self.leave(_BAD_BDAT, end="protocol", reason="syntax")
            return
        size_bytes, is_last = int(match[1]), match[2] is not None
        if size_bytes > self.listener.limits.message_size * READ_ON_FACTOR:
            self.leave(_ENDLESS, end="limit", reason="message_size")
        stage, self.stage = self.stage, "data"
        refusal: Reply | bytes | None = None
        if self._transaction is None:
            refusal = _NEED_MAIL
        elif not self._accepted_count:
            refusal = _NEED_RCPT
        elif self._chunks is None:
            self._chunks = ChunkDecoder(normalize=self.listener.normalize_newlines)
        refusal = await self._receive_chunk(size_bytes, is_last, refusal)
        self.stage = stage
        if isinstance(refusal, bytes):
            self.say(refusal)
        elif is_last:
            await self._end_of_data(refusal)
        elif refusal is not None:
            # The client must begin again; its further chunks are read and answered 503.
            self.drop_transaction()
            self._reject(refusal)
        else:
            self.stream.write(f"250 2.0.0 {size_bytes} octets\r\n".encode())

    async def _receive_chunk(
        self, size_bytes: int, is_last: bool, refusal: Reply | bytes | None
    ) -> Reply | bytes | None:
        """Read one chunk to its end. Returns the reply that refuses it, or None."""
        stream, chunks = self.stream, self._chunks
        stream.begin_upload()
        missing_bytes = size_bytes
        while missing_bytes:
            data = await stream.read_some(missing_bytes)
            missing_bytes -= len(data)
            if refusal is None and chunks is not None and (body := chunks.receive(data)):
                refusal = await self._keep(body)
        if refusal is None and is_last and chunks is not None and (body := chunks.finish()):
            refusal = await self._keep(body)
        stream.end_upload()
        if chunks is not None and chunks.has_bare_newline and not self.listener.normalize_newlines:
            self.leave(_BARE, end="protocol", reason="bare_newline")
        return refusal

    # The end of a message.

    @property
    def has_transaction(self) -> bool:
        """See `EdgeConnection`."""
        return self._transaction is not None or self.is_busy

    def drop_transaction(self) -> None:
        """See `EdgeConnection`."""
        transaction, self._transaction = self._transaction, None
        self._drop_body()
        self._accepted_count = 0
        self._smtputf8 = False
        self._chunks = None
        if transaction is not None:
            self.forget_forwarded()
            transaction.abandon()

    def _drop_body(self) -> None:
        if self._writer_of_body is not None:
            self._writer_of_body.discard()
            self._writer_of_body = None


class LmtpSession(EdgeSession):
    """The dialogue of one LMTP client (RFC 2033): LHLO, and one reply per accepted RCPT after the message."""

    commands: ClassVar[Mapping[str, str]] = {
        "LHLO": "smtp_LHLO",
        **{name: method for name, method in EdgeSession.commands.items() if name not in ("HELO", "EHLO")},
    }
    greeting_name: ClassVar[str] = "LMTP"
    per_recipient: ClassVar[bool] = True

    def smtp_LHLO(self, arg: str | None) -> None:
        """RFC 2033 section 4.1."""
        self.smtp_EHLO(arg)
