"""Mail for addresses outside, handed to the smarthost over SMTP by aiosmtplib.

    relay = Relay(settings, client_name="mx1.example.edu")
    outcomes = await relay.send(transaction, before_dot=...)     one per recipient; never raises for its trouble

Connections are kept and used again. What each answer means:

| what the smarthost did | outcome |
|---|---|
| no connection, no TLS, greeting or EHLO refused, login refused, 421, lost before the data | deferred by the node |
| 4xx to MAIL, RCPT, DATA or the data | deferred |
| 5xx to MAIL, RCPT, DATA or the data | failed, its word |
| lost or silent while the data or its answer was under way | unknown: sent again later, a duplicate is possible |

A message is in memory while it is sent (aiosmtplib has no streaming): at most `connections` of them. SMTPUTF8, SIZE,
BODY and the DSN parameters are said where they are offered; a message that needs SMTPUTF8 and finds none fails.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable

import aiosmtplib

from mailfront.base.errors import ConfigError, Unavailable
from mailfront.base.printable import printable
from mailfront.base.secret import Secret
from mailfront.delivery.message import LmtpTransaction
from mailfront.delivery.outbound_settings import OutboundSettings
from mailfront.mail.envelope import BodyType
from mailfront.mail.next_hop import RELAY
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Outcome, Unknown
from mailfront.mail.reply import Reply, reply, reply_from_peer

BeforeDot = Callable[[], Awaitable[None]]


class Relay:
    """See the module. One per keeper; one event loop."""

    def __init__(self, settings: OutboundSettings, *, client_name: str) -> None:
        """Read the files that the settings name. Raises ConfigError."""
        self._settings = settings
        self._client_name = client_name
        self._login = None if settings.login_file is None else _read_login(settings)
        self._tls = _tls_context(settings)
        self._idle: list[tuple[aiosmtplib.SMTP, asyncio.TimerHandle]] = []

    async def send(self, transaction: LmtpTransaction, *, before_dot: BeforeDot) -> tuple[Outcome, ...]:
        """Send one message to its recipients; their `node_user` is the address. `before_dot` may raise Unavailable to
        stop it. Cancellation: what was not answered is unknown."""
        count = len(transaction.recipients)
        while True:
            client, is_fresh = self._take(), False
            try:
                if client is None:
                    is_fresh = True
                    client = await self._connect()
                dialogue = _Dialogue(client, transaction, self._settings)
                outcomes = await dialogue.run(before_dot)
            except _Broken as broken:
                self._drop(client)
                if broken.before_data and not is_fresh:
                    continue  # it was idle for too long for the other side: that says nothing about the server
                return (broken.outcome,) * count
            except BaseException:
                self._drop(client)
                raise
            self._give_back(client)
            return outcomes

    async def close(self) -> None:
        """Close what is idle."""
        for client, timer in self._idle:
            timer.cancel()
            client.close()
        self._idle.clear()

    async def _connect(self) -> aiosmtplib.SMTP:
        settings = self._settings
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            local_hostname=self._client_name,
            timeout=settings.connect_timeout,
            use_tls=settings.tls == "implicit",
            start_tls=False,
            tls_context=self._tls if settings.tls == "implicit" else None,
        )
        try:
            async with asyncio.timeout(2 * settings.connect_timeout):
                await client.connect()
                await client.ehlo()
                wanted = settings.tls == "starttls"
                if wanted or (settings.tls == "opportunistic" and client.supports_extension("starttls")):
                    await client.starttls(tls_context=self._tls)
                    await client.ehlo()
                if self._login is not None:
                    await client.login(self._login[0], self._login[1].reveal().decode())
        except aiosmtplib.SMTPResponseException as error:
            client.close()
            # A refused login or greeting is between the two servers, never the sender's fault.
            answer = f"{settings.smarthost}: {error.code} {printable(error.message, 200)}"
            raise _Broken(_deferred(answer, alarm=f"the smarthost refuses us: {answer}")) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            client.close()
            raise _Broken(_deferred(f"{settings.smarthost}: {printable(str(error) or 'no answer', 200)}")) from error
        except BaseException:
            client.close()
            raise
        return client

    def _take(self) -> aiosmtplib.SMTP | None:
        while self._idle:
            client, timer = self._idle.pop()
            timer.cancel()
            if client.is_connected:
                return client
        return None

    def _give_back(self, client: aiosmtplib.SMTP) -> None:
        timer = asyncio.get_running_loop().call_later(self._settings.idle_timeout, self._forget, client)
        self._idle.append((client, timer))

    def _forget(self, client: aiosmtplib.SMTP) -> None:
        self._idle = [each for each in self._idle if each[0] is not client]
        client.close()

    def _drop(self, client: aiosmtplib.SMTP | None) -> None:
        if client is not None:
            client.close()


class _Broken(Exception):
    """A connection that is of no use any more, and what that means for all recipients."""

    def __init__(self, outcome: Outcome, *, before_data: bool = True) -> None:
        super().__init__()
        self.outcome = outcome
        self.before_data = before_data


class _Dialogue:
    """One message over one connection."""

    def __init__(self, client: aiosmtplib.SMTP, transaction: LmtpTransaction, settings: OutboundSettings) -> None:
        self._client = client
        self._transaction = transaction
        self._settings = settings
        self._notifies = client.supports_extension("dsn")

    async def run(self, before_dot: BeforeDot) -> tuple[Outcome, ...]:
        """MAIL, RCPT for each, DATA. Raises _Broken."""
        transaction = self._transaction
        addresses = [each.node_user for each in transaction.recipients]
        sender = "" if transaction.reverse_path is None else str(transaction.reverse_path)
        needs_utf8 = transaction.smtputf8 or not all(text.isascii() for text in (sender, *addresses))
        if needs_utf8 and not self._client.supports_extension("smtputf8"):
            needs_utf8 = False
            if not all(text.isascii() for text in (sender, *addresses)):
                no_utf8 = reply(550, "5.6.7", "the next server does not take internationalised addresses")
                return (Failed(no_utf8, RELAY),) * len(addresses)
        refused = await self._command(self._client.mail, sender, self._mail_options(needs_utf8), needs_utf8)
        if refused is not None:
            await self._reset()
            return (_outcome(refused),) * len(addresses)
        answers = []
        for recipient in transaction.recipients:
            options = self._rcpt_options(recipient.options.notify, recipient.options.orcpt)
            answers.append(await self._command(self._client.rcpt, recipient.node_user, options, needs_utf8))
        if all(answer is not None for answer in answers):
            await self._reset()
            return tuple(_outcome(answer) for answer in answers if answer is not None)
        taken = await self._data(before_dot)
        return tuple(taken if answer is None else _outcome(answer) for answer in answers)

    async def _command(
        self, command: Callable[..., Awaitable[object]], address: str, options: list[str], needs_utf8: bool
    ) -> Reply | None:
        """MAIL or RCPT. None: it was accepted."""
        encoding = "utf-8" if needs_utf8 else "ascii"
        try:
            await command(address, options=options, encoding=encoding, timeout=self._settings.reply_timeout)
        except aiosmtplib.SMTPResponseException as error:
            return _peer_reply(error)
        except ValueError:
            return reply(553, "5.1.3", "this address cannot be written in SMTP")
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise _Broken(_deferred(f"{self._settings.smarthost}: {printable(str(error), 200)}")) from error
        return None

    async def _data(self, before_dot: BeforeDot) -> Outcome:
        content = b"".join(self._transaction.body.pieces())
        try:
            await before_dot()
        except Unavailable as error:
            raise _Broken(_deferred(str(error))) from error
        try:
            answer = await self._client.data(content, timeout=self._settings.final_timeout)
        except aiosmtplib.SMTPResponseException as error:
            return _outcome(_peer_reply(error))
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            doubt = Unknown(RELAY, f"{self._settings.smarthost}: {printable(str(error) or 'no answer', 200)}")
            raise _Broken(doubt, before_data=False) from error
        text = printable(answer.message, 200)
        return Delivered(RELAY, reply_from_peer(answer.code, [text.encode()]), notifies=self._notifies)

    async def _reset(self) -> None:
        with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
            await self._client.rset(timeout=self._settings.reply_timeout)

    def _mail_options(self, needs_utf8: bool) -> list[str]:
        transaction, offers = self._transaction, self._client.supports_extension
        options = []
        if offers("size"):
            options.append(f"SIZE={transaction.body.size_bytes}")
        if offers("8bitmime") and (transaction.body_type is BodyType.EIGHTBITMIME or needs_utf8):
            options.append("BODY=8BITMIME")
        if needs_utf8:
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


def _peer_reply(error: aiosmtplib.SMTPResponseException) -> Reply:
    lines = [printable(line, 300).encode() for line in error.message.splitlines()] or [b""]
    if error.code == 421:
        raise _Broken(_deferred(f"421 {lines[0].decode()}"))
    if not 400 <= error.code <= 559:
        raise _Broken(_deferred(f"an answer that fits nothing: {error.code} {lines[0].decode()}"))
    return reply_from_peer(error.code, lines)


def _outcome(answer: Reply) -> Outcome:
    if answer.is_permanent:
        return Failed(answer, RELAY)
    return Deferred(Blame.MAILBOX, answer, RELAY)


def _deferred(text: str, *, alarm: str = "") -> Deferred:
    return Deferred(Blame.NODE, reply(451, "4.4.1", text), RELAY, alarm)


def _tls_context(settings: OutboundSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except OSError as error:
        raise ConfigError((f"{settings.ca}: cannot be used: {error.strerror}; check outbound.ca",)) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.tls == "opportunistic":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _read_login(settings: OutboundSettings) -> tuple[str, Secret]:
    path = settings.login_file
    assert path is not None
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {error.strerror}; check outbound.login_file",)) from error
    if len(lines) < 2 or not lines[0].strip() or not lines[1].strip():
        raise ConfigError((f"{path}: the first line must hold the user, the second the password",))
    return lines[0].strip().decode("utf-8", "replace"), Secret(lines[1].strip())
