"""Mail for addresses outside, handed to the smarthost over SMTP by aiosmtplib.

    relay = Relay(settings, client_name="mx1.example.edu")
    outcomes = await relay.send(transaction, before_dot=...)     one per recipient; never raises for its trouble

Connections are kept and used again. What each answer means is in `trouble` (`Authority.ELSEWHERE`); what the lack of
one means:

| what happened | outcome |
|---|---|
| no connection, no TLS where it is wanted; greeting, EHLO or login refused | deferred by the server itself |
| 421, lost, silent or garbled before the final dot | the same; a kept connection is first replaced by a fresh one |
| 421, lost, silent or garbled after the message's data was written | unknown: sent again, a duplicate is possible |

A password or a message never goes where the settings want TLS and there is none, or a certificate that is not right.

The dialogue of one message is in `relay_dialogue`. Each attempt ends with one `delivery` event. The only next hop so
far that speaks SMTP; delivery by MX would be a second user of the dialogue, with hosts of its own for each domain.
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass

import aiosmtplib

from mailfront.base.errors import ConfigError
from mailfront.base.printable import printable
from mailfront.base.secret import Secret
from mailfront.base.tasks import spawn
from mailfront.delivery.attempt_record import AttemptRecord
from mailfront.delivery.message import LmtpTransaction, Phase
from mailfront.delivery.outbound_settings import OutboundSettings
from mailfront.delivery.relay_dialogue import BeforeDot, Broken, RelayDialogue, deferred
from mailfront.delivery.trouble import Evidence, Ruling
from mailfront.mail.next_hop import RELAY
from mailfront.mail.outcome import Outcome

FAREWELL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayProbe:
    """What a try of the smarthost saw. `text` says what went wrong, or ''. `tls`: version and cipher, '' without."""

    text: str
    tls: str = ""
    extensions: tuple[str, ...] = ()


class Relay:
    """See the module. One per keeper; one event loop."""

    def __init__(self, settings: OutboundSettings, *, client_name: str, strict_8bit: bool = False) -> None:
        """Read the files that the settings name. Raises ConfigError. `strict_8bit`: see `DeliverySettings`."""
        self._settings = settings
        self._client_name = client_name
        self._strict_8bit = strict_8bit
        self._login = None if settings.login_file is None else _read_login(settings)
        self._tls = _tls_context(settings)
        self._idle: list[tuple[aiosmtplib.SMTP, asyncio.TimerHandle]] = []
        self._farewells: set[asyncio.Task[None]] = set()

    async def send(
        self, transaction: LmtpTransaction, *, before_dot: BeforeDot, attempt: int = 1
    ) -> tuple[Outcome, ...]:
        """Send one message to its recipients; their `node_user` is the address. `before_dot` may raise Unavailable to
        stop it. Cancellation: what was not answered is unknown. Raises what the body raises when it is read."""
        record = AttemptRecord(source="queue", home=None, attempt=attempt)
        record.slot_taken()
        outcomes = await self._send(transaction, before_dot, record)
        rulings = [Ruling(outcome, Evidence.NONE) for outcome in outcomes]
        record.ended(RELAY, transaction, rulings, phase=Phase.DONE, stopped=False)
        return outcomes

    async def _send(
        self, transaction: LmtpTransaction, before_dot: BeforeDot, record: AttemptRecord
    ) -> tuple[Outcome, ...]:
        while True:
            client = self._take()
            is_fresh = client is None
            try:
                if client is None:
                    client = await self._connect()
                record.connected(_tls_of(client) or None, reused=not is_fresh)
                dialogue = RelayDialogue(client, transaction, self._settings, record, strict_8bit=self._strict_8bit)
                outcomes = await dialogue.run(before_dot)
            except Broken as broken:
                self._drop(client)
                if broken.try_fresh and not is_fresh:
                    # It was idle for too long for the other side: that says nothing about the server.
                    record.retried = True
                    continue
                return (broken.outcome,) * len(transaction.recipients)
            except BaseException:
                self._drop(client)
                raise
            self._give_back(client)
            return outcomes

    async def probe(self) -> RelayProbe:
        """Connect, with TLS and login as the settings say, and leave. Sends no mail. Never raises for its trouble."""
        try:
            client = await self._connect()
        except Broken as broken:
            return RelayProbe(text=broken.text)
        seen = RelayProbe(text="", tls=_tls_of(client), extensions=tuple(sorted(client.esmtp_extensions)))
        await _leave(client)
        return seen

    async def close(self) -> None:
        """Close what is idle, with QUIT where the server is quick about it."""
        for client, timer in self._idle:
            timer.cancel()
            self._say_farewell(client)
        self._idle.clear()
        if self._farewells:
            await asyncio.wait(self._farewells)

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
            await client.connect()
            client.timeout = settings.reply_timeout
            await client.ehlo()
            wanted = settings.tls == "starttls"
            if wanted or (settings.tls == "opportunistic" and client.supports_extension("starttls")):
                await client.starttls(tls_context=self._tls, timeout=settings.connect_timeout)
                await client.ehlo()
            if self._login is not None:
                await client.login(self._login[0], self._login[1].reveal().decode())
        except aiosmtplib.SMTPResponseException as error:
            client.close()
            # A refused login or greeting is between the two servers, never the sender's fault.
            text = f"{error.code} {printable(error.message, 200)}"
            raise Broken(deferred(settings, text), text) from error
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            text = _why(error)
            raise Broken(deferred(settings, text), text) from error
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
        self._say_farewell(client)

    def _say_farewell(self, client: aiosmtplib.SMTP) -> None:
        task = spawn(_leave(client), name="leave the smarthost")
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    def _drop(self, client: aiosmtplib.SMTP | None) -> None:
        if client is not None:
            client.close()


async def _leave(client: aiosmtplib.SMTP) -> None:
    with contextlib.suppress(aiosmtplib.SMTPException, OSError):
        await client.quit(timeout=FAREWELL_S)
    client.close()


def _tls_of(client: aiosmtplib.SMTP) -> str:
    tls = client.get_transport_info("ssl_object")
    cipher = tls.cipher() if tls is not None else None
    return f"{tls.version()} {cipher[0]}" if cipher else ""


def _why(error: Exception) -> str:
    cause = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    if cause is not None:
        return f"its certificate is not accepted: {printable(cause.verify_message, 200)} (see outbound.ca)"
    return printable(str(error) or type(error).__name__, 200)


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
