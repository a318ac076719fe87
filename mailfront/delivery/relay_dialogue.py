"""One message over one SMTP connection of aiosmtplib: MAIL, RCPT for each recipient, DATA, the message, the answer.

What is said depends on what the server's EHLO offered: SIZE, BODY, SMTPUTF8 and the DSN parameters are sent where they
are offered. A recipient or sender that needs SMTPUTF8 and finds none fails (5.6.7); a message that is only written in
UTF-8 goes as it is. 8-bit text goes to a server without 8BITMIME as it is, or fails (5.6.3) with `strict_8bit`.

A message is in memory while it is sent: aiosmtplib has no streaming. Its own `data` is not used: that says in one
exception what was answered to DATA and what after the dot, of which the one is an answer about nothing sent and the
other may be about a message that was stored; and it rewrites every line.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiosmtplib

from mailfront.base.errors import Unavailable
from mailfront.base.printable import printable
from mailfront.delivery.attempt_record import AttemptRecord
from mailfront.delivery.message import LmtpTransaction
from mailfront.delivery.outbound_settings import OutboundSettings
from mailfront.delivery.trouble import Authority, Stage, judge_reply
from mailfront.mail.envelope import BodyType
from mailfront.mail.next_hop import RELAY
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Outcome, Unknown
from mailfront.mail.reply import Reply, reply, reply_from_peer
from mailfront.protocol.dot_stuffing import DotStuffer

BeforeDot = Callable[[], Awaitable[None]]

_CLOSING = 421
_START_INPUT = 354


class Broken(Exception):
    """A connection that is of no use any more, and what that means for all recipients. `try_fresh`: if the connection
    was a kept one, the same may work on another."""

    def __init__(self, outcome: Outcome, text: str, *, try_fresh: bool = True) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.text = text
        self.try_fresh = try_fresh


def deferred(settings: OutboundSettings, text: str) -> Deferred:
    """A deferral by the smarthost itself."""
    return Deferred(Blame.NODE, reply(451, "4.4.1", f"{settings.smarthost}: {text}"), RELAY)


class RelayDialogue:
    """See the module. Used once."""

    def __init__(
        self,
        client: aiosmtplib.SMTP,
        transaction: LmtpTransaction,
        settings: OutboundSettings,
        record: AttemptRecord,
        *,
        strict_8bit: bool,
    ) -> None:
        self._client = client
        self._transaction = transaction
        self._settings = settings
        self._record = record
        self._strict_8bit = strict_8bit
        self._notifies = client.supports_extension("dsn")
        self._utf8 = False

    async def run(self, before_dot: BeforeDot) -> tuple[Outcome, ...]:
        """The whole dialogue. Raises Broken, and what the body raises."""
        recipients = self._transaction.recipients
        outcomes: dict[int, Outcome] = self._unsendable()
        sent = [index for index in range(len(recipients)) if index not in outcomes]
        if sent:
            outcomes |= await self._send_to(sent, before_dot)
        return tuple(outcomes[index] for index in range(len(recipients)))

    async def _send_to(self, sent: list[int], before_dot: BeforeDot) -> dict[int, Outcome]:
        transaction, outcomes = self._transaction, {}
        sender = "" if transaction.reverse_path is None else str(transaction.reverse_path)
        refused = await self._command(Stage.MAIL, sender, self._mail_options())
        if refused is not None:
            await self._reset()
            return dict.fromkeys(sent, _outcome(Stage.MAIL, refused))
        accepted = []
        for index in sent:
            recipient = transaction.recipients[index]
            options = self._rcpt_options(recipient.options.notify, recipient.options.orcpt)
            answer = await self._command(Stage.RCPT, recipient.node_user, options)
            if answer is None:
                accepted.append(index)
            else:
                outcomes[index] = _outcome(Stage.RCPT, answer)
        if not accepted:
            await self._reset()
            return outcomes
        return outcomes | dict.fromkeys(accepted, await self._data(before_dot))

    async def _data(self, before_dot: BeforeDot) -> Outcome:
        content = self._stuffed()
        started = await self._ask(
            Stage.DATA, self._client.execute_command(b"DATA", timeout=self._settings.reply_timeout)
        )
        self._record.envelope_answered()
        if started.code != _START_INPUT:
            answer = self._readable(started)
            if answer.is_positive:
                raise self._broken(f"{answer} to DATA")
            await self._reset()
            return _outcome(Stage.DATA, answer)
        try:
            await before_dot()
        except Unavailable as error:
            raise Broken(deferred(self._settings, str(error)), str(error), try_fresh=False) from error
        protocol = self._client.protocol
        if protocol is None:
            raise self._broken("connection lost before the message was sent")
        try:
            protocol.write(content)
        except aiosmtplib.SMTPException as error:  # the transport is closed: not a byte has left
            raise self._broken(str(error)) from error
        self._record.body_sent()
        try:
            final = await protocol.read_response(timeout=self._settings.final_timeout)
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._doubt(printable(str(error) or "no answer", 200)) from error
        self._record.answered()
        if final.code == _CLOSING or not (200 <= final.code < 300 or 400 <= final.code < 560):
            raise self._doubt(f"{final.code} {printable(final.message, 200)}")
        outcome = _outcome(Stage.FINAL, self._readable(final))
        return replace(outcome, notifies=self._notifies) if isinstance(outcome, Delivered) else outcome

    def _stuffed(self) -> bytes:
        stuffer = DotStuffer()
        pieces = [stuffer.stuff(piece) for piece in self._transaction.body.pieces()]
        return b"".join([*pieces, stuffer.end()])

    async def _command(self, stage: Stage, address: str, options: list[str]) -> Reply | None:
        """MAIL or RCPT. None: it was accepted."""
        command = self._client.mail if stage is Stage.MAIL else self._client.rcpt
        encoding = "utf-8" if self._utf8 else "ascii"
        try:
            await self._ask(
                stage, command(address, options=options, encoding=encoding, timeout=self._settings.reply_timeout)
            )
        except _Refused as refused:
            return self._readable(refused.answer)
        except ValueError:
            return reply(553, "5.1.3", "this address cannot be written in SMTP")
        return None

    async def _ask(self, stage: Stage, asked: Awaitable[aiosmtplib.SMTPResponse]) -> aiosmtplib.SMTPResponse:
        """Wait for an answer before the final dot. Raises Broken, and _Refused for what aiosmtplib calls a refusal."""
        try:
            return await asked
        except aiosmtplib.SMTPResponseException as error:
            raise _Refused(aiosmtplib.SMTPResponse(error.code, error.message)) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._broken(f"{printable(str(error) or 'no answer', 200)} at {stage.value}") from error

    def _readable(self, answer: aiosmtplib.SMTPResponse) -> Reply:
        """An answer as a value. Raises Broken if it is none, or one about the connection."""
        lines = [printable(line, 300).encode() for line in answer.message.splitlines()] or [b""]
        if answer.code == _CLOSING or not (200 <= answer.code < 300 or 400 <= answer.code < 560):
            raise self._broken(f"{answer.code} {lines[0].decode()}")
        return reply_from_peer(answer.code, lines)

    async def _reset(self) -> None:
        """End the transaction. A server that does not do it would take the next message for a part of this one."""
        try:
            await self._client.rset(timeout=self._settings.reply_timeout)
        except (aiosmtplib.SMTPException, OSError):
            self._client.close()

    def _unsendable(self) -> dict[int, Outcome]:
        """Who cannot be reached by what the server offers; decides whether SMTPUTF8 is asked for."""
        transaction = self._transaction
        everybody = range(len(transaction.recipients))
        offers = self._client.supports_extension
        if self._strict_8bit and transaction.body_type is BodyType.EIGHTBITMIME and not offers("8bitmime"):
            return dict.fromkeys(everybody, _failed("5.6.3", "8-bit mail"))
        sender_is_ascii = transaction.reverse_path is None or transaction.reverse_path.is_ascii
        needy = [
            index for index in everybody if not sender_is_ascii or not transaction.recipients[index].node_user.isascii()
        ]
        self._utf8 = offers("smtputf8") and (transaction.smtputf8 or bool(needy))
        return {} if self._utf8 else dict.fromkeys(needy, _failed("5.6.7", "internationalised addresses"))

    def _mail_options(self) -> list[str]:
        transaction, offers = self._transaction, self._client.supports_extension
        options = []
        if offers("size"):
            options.append(f"SIZE={transaction.body.size_bytes}")
        if offers("8bitmime") and (transaction.body_type is BodyType.EIGHTBITMIME or self._utf8):
            options.append("BODY=8BITMIME")
        if self._utf8:
            options.append("SMTPUTF8")
        if self._notifies and transaction.ret is not None:
            options.append(f"RET={transaction.ret}")
        if self._notifies and transaction.envid is not None:
            options.append(f"ENVID={transaction.envid}")
        return options

    def _rcpt_options(self, notify: str | None, orcpt: str | None) -> list[str]:
        if not self._notifies:
            return []
        options = [] if notify is None else [f"NOTIFY={notify}"]
        return options if orcpt is None or not orcpt.isascii() else [*options, f"ORCPT={orcpt}"]

    def _broken(self, text: str) -> Broken:
        return Broken(deferred(self._settings, text), text)

    def _doubt(self, text: str) -> Broken:
        return Broken(Unknown(RELAY, f"{self._settings.smarthost}: {text}"), text, try_fresh=False)


class _Refused(Exception):
    """An answer that aiosmtplib takes for an error."""

    def __init__(self, answer: aiosmtplib.SMTPResponse) -> None:
        super().__init__(str(answer))
        self.answer = answer


def _outcome(stage: Stage, answer: Reply) -> Outcome:
    return judge_reply(stage, answer, RELAY, Authority.ELSEWHERE).outcome


def _failed(enhanced: str, what: str) -> Failed:
    return Failed(reply(550, enhanced, f"the next server does not take {what}"), RELAY)
