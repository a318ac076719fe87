"""One IMAP session with a storage node: for the drain (fetch and delete copies), the search before a repeated delivery,
and the prober (log in).

Order of calls: `connect`, `login` or `login_as`, then `search_header`, `search_all`, `fetch`, `delete` in any order,
`close` at the end in every case. One call at a time. The dialogue itself is `protocol.imap_client`.

Every call ends: a command may take `timeout_s` in all, a message that much and a second more per 64 KiB. A call that
raises leaves no usable session, `ImapRefused` excepted; cancelling one closes the connection. Deleting is done when the
node has said so; deleting again what is gone does no harm.

Passwords travel in the clear where the endpoint's `tls` is `off`: that is the administrator's choice for his storage
network. With `starttls` and `implicit` nothing is sent before the node's certificate was checked.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from datetime import date

from mailfront.base.errors import RemoteProtocolError, Unavailable
from mailfront.base.printable import printable
from mailfront.base.secret import Secret
from mailfront.protocol.imap_client import ImapClient
from mailfront.protocol.imap_events import (
    BodyEnd,
    BodyPiece,
    BodyStart,
    Bye,
    Completed,
    Event,
    Folder,
    Greeting,
    SearchResult,
    Send,
)
from mailfront.transfer.imap_wire import ImapEndpoint, ImapWire

SLOWEST_BYTES_PER_S = 64 * 1024
UIDS_PER_COMMAND_COUNT = 200
MOST_FOUND_COUNT = 100_000
MOST_FOLDERS_COUNT = 1000
LOGOUT_S = 5.0

BodySink = Callable[[bytes], Awaitable[None]]
"""Takes the bytes of a message as they come; what it raises ends the session and reaches the caller."""


class ImapFailed(Unavailable):
    """The node could not be used over IMAP: no connection, no TLS, no answer, or nonsense. Says where it ended."""


class ImapRefused(ImapFailed):
    """The node answered NO or BAD. `code` is its response code, such as AUTHENTICATIONFAILED, or ''."""

    def __init__(self, what: str, answer: Completed) -> None:
        code = f" [{printable(answer.code, 80)}]" if answer.code else ""
        super().__init__(f"{what}: {answer.status.value}{code} {answer.text}")
        self.code = answer.code


class ImapSession:
    """See the module."""

    def __init__(self, wire: ImapWire, timeout_s: float) -> None:
        self._wire = wire
        self._core = ImapClient()
        self._timeout_s = timeout_s
        self._selected: tuple[str, bool] | None = None
        self._is_open = True

    @classmethod
    async def connect(
        cls, endpoint: ImapEndpoint, context: ssl.SSLContext | None = None, *, timeout_s: float = 30.0
    ) -> "ImapSession":
        """Open a connection, wait for the greeting, start TLS where the endpoint says so. Raises ImapFailed."""
        if endpoint.tls != "off" and context is None:
            raise ValueError(f"{endpoint.host}: TLS is wanted and there is no TLS context")
        try:
            async with asyncio.timeout(timeout_s):
                wire = await ImapWire.dial(endpoint, context)
        except TimeoutError as error:
            raise ImapFailed(f"connect: no connection within {timeout_s:g} s") from error
        except OSError as error:
            raise ImapFailed(f"connect: {_reason(error)}") from error
        session = cls(wire, timeout_s)
        try:
            await session._run("greeting", b"")
            if endpoint.tls == "starttls":
                assert context is not None
                await session._command("STARTTLS", session._core.starttls())
                await session._shake_hands(endpoint, context)
        except BaseException:
            session._abort()
            raise
        return session

    async def login(self, user: str, password: Secret) -> None:
        """Log in with the user's own password. Raises ImapRefused if the node does not accept it, ImapFailed."""
        await self._learn_capabilities()
        if "LOGINDISABLED" in self._core.capabilities:
            self._abort()
            raise ImapFailed("LOGIN: the node takes no password on this connection (LOGINDISABLED); set tls")
        await self._command("LOGIN", self._core.login(user, password))
        await self._learn_capabilities()

    async def login_as(self, master: str, password: Secret, user: str) -> None:
        """Log in as `user` with the master user's password, by SASL PLAIN. Raises ImapRefused, ImapFailed."""
        await self._learn_capabilities()
        if "AUTH=PLAIN" not in self._core.capabilities:
            self._abort()
            raise ImapFailed("AUTHENTICATE: the node does not offer AUTH=PLAIN on this connection")
        await self._command("AUTHENTICATE", self._core.authenticate_plain(user, master, password))
        await self._learn_capabilities()

    async def folders(self) -> list[str]:
        """All folders that can be selected, INBOX first; at most 1,000. Raises ImapRefused, ImapFailed."""
        names: dict[str, None] = {}

        async def take(event: Event) -> None:
            if isinstance(event, Folder) and len(names) < MOST_FOLDERS_COUNT:
                names[event.name] = None

        await self._command("LIST", self._core.list_folders(), take)
        return sorted(names, key=lambda name: name.upper() != "INBOX")

    async def search_header(self, mailbox: str, name: str, value: str, *, since: date | None = None) -> list[int]:
        """The UIDs of messages whose header `name` contains `value`, that arrived on `since` or later, ascending.
        Raises ImapRefused, ImapFailed."""
        await self._select_anew(mailbox)
        return await self._search(self._core.search_header(name, value, since))

    async def search_all(self, mailbox: str) -> list[int]:
        """The UIDs of all messages, ascending; at most 100,000. Raises ImapRefused, ImapFailed."""
        await self._select_anew(mailbox)
        return await self._search(self._core.search_all())

    async def fetch(
        self, mailbox: str, uid: int, sink: BodySink, *, limit_bytes: int, head_bytes: int | None = None
    ) -> int | None:
        """Give a message (or its first `head_bytes`) to `sink`. Returns its size, None if there is no such message.

        More than `limit_bytes` is ImapFailed. What the sink has got counts only if this returns. Raises ImapRefused,
        ImapFailed, and what the sink raises.
        """
        await self._select(mailbox, writable=False)
        got_bytes, is_whole = 0, False

        async def take(event: Event) -> None:
            nonlocal got_bytes, is_whole
            if isinstance(event, BodyPiece):
                got_bytes += len(event.data)
                await sink(event.data)
            elif isinstance(event, BodyEnd):
                is_whole = True

        await self._command("FETCH", self._core.fetch(uid, limit_bytes, head_bytes=head_bytes), take)
        return got_bytes if is_whole else None

    async def delete(self, mailbox: str, uids: Sequence[int]) -> None:
        """Remove messages for good. Without UIDPLUS on the node, all that are marked as deleted in this mailbox go.
        Raises ImapRefused, ImapFailed."""
        await self._select(mailbox, writable=True)
        for at in range(0, len(uids), UIDS_PER_COMMAND_COUNT):
            some = uids[at : at + UIDS_PER_COMMAND_COUNT]
            await self._command("STORE", self._core.delete(some))
            await self._command("EXPUNGE", self._core.expunge(some))

    async def close(self) -> None:
        """Log out if possible, within 5 s, and close. Never raises for what the node does."""
        if self._is_open:
            self._timeout_s = min(self._timeout_s, LOGOUT_S)
            try:
                await self._run("LOGOUT", self._core.logout())
            except ImapFailed:
                pass
        self._abort()
        await self._wire.lost()

    # The dialogue.

    def _require_open(self, what: str) -> None:
        if not self._is_open:
            raise ImapFailed(f"{what}: the session has ended")

    async def _learn_capabilities(self) -> None:
        self._require_open("LOGIN")
        if not self._core.capabilities:
            await self._command("CAPABILITY", self._core.capability())

    async def _select_anew(self, mailbox: str) -> None:
        """Select a mailbox, or learn what has come into it since it was selected (RFC 3501 section 5.2)."""
        self._require_open(f"SEARCH {mailbox}")
        if self._selected is not None and self._selected[0] == mailbox:
            await self._command("NOOP", self._core.noop())
        else:
            await self._select(mailbox, writable=False)

    async def _select(self, mailbox: str, *, writable: bool) -> None:
        self._require_open(f"SELECT {mailbox}")
        if self._selected is not None and self._selected[0] == mailbox and self._selected[1] >= writable:
            return
        self._selected = None
        await self._command(f"SELECT {mailbox}", self._core.select(mailbox, read_only=not writable))
        self._selected = (mailbox, writable)

    async def _search(self, data: bytes) -> list[int]:
        uids: set[int] = set()

        async def take(event: Event) -> None:
            if isinstance(event, SearchResult):
                uids.update(event.uids)
                if len(uids) > MOST_FOUND_COUNT:
                    raise RemoteProtocolError(f"more than {MOST_FOUND_COUNT} messages found")

        await self._command("SEARCH", data, take)
        return sorted(uids)

    async def _command(self, what: str, data: bytes, take: Callable[[Event], Awaitable[None]] | None = None) -> None:
        answer = await self._run(what, data, take)
        if isinstance(answer, Completed) and not answer.is_ok:
            raise ImapRefused(what, answer)

    async def _run(
        self, what: str, data: bytes, take: Callable[[Event], Awaitable[None]] | None = None
    ) -> Completed | Greeting:
        """Send a command and work on what comes until it has ended. Anything but an end aborts the connection."""
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                if data:
                    self._wire.write(data)
                return await self._answer(what, take, limit)
        except RemoteProtocolError as error:
            self._abort()
            raise ImapFailed(f"{what}: {error}") from error
        except TimeoutError as error:
            self._abort()
            if not limit.expired():
                raise
            raise ImapFailed(f"{what}: no answer within {self._timeout_s:g} s") from error
        except BaseException:
            self._abort()
            raise

    async def _answer(
        self, what: str, take: Callable[[Event], Awaitable[None]] | None, limit: asyncio.Timeout
    ) -> Completed | Greeting:
        while True:
            event = await self._event(what)
            if isinstance(event, Completed | Greeting):
                return event
            if isinstance(event, Send):
                self._wire.write(event.data)
            elif isinstance(event, Bye):
                if what != "LOGOUT":
                    raise ImapFailed(f"{what}: the node ends the session: {event.text}")
            elif take is not None:
                if isinstance(event, BodyStart):
                    more_s = self._timeout_s + event.size_bytes / SLOWEST_BYTES_PER_S
                    limit.reschedule(asyncio.get_running_loop().time() + more_s)
                await take(event)

    async def _event(self, what: str) -> Event:
        while (event := self._core.next_event()) is None:
            try:
                data = await self._wire.read()
            except OSError as error:
                raise ImapFailed(f"{what}: {_reason(error)}") from error
            if not data:
                raise ImapFailed(f"{what}: the node closed the connection")
            self._core.receive(data)
        return event

    async def _shake_hands(self, endpoint: ImapEndpoint, context: ssl.SSLContext) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._wire.start_tls(endpoint, context)
            self._core.tls_started()
        except RemoteProtocolError as error:
            raise ImapFailed(f"TLS: {error}") from error
        except (OSError, TimeoutError) as error:
            raise ImapFailed(f"TLS: {_reason(error)}") from error

    def _abort(self) -> None:
        self._is_open = False
        self._wire.abort()


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the node's certificate is not accepted: {printable(error.verify_message)}"
    return printable(str(getattr(error, "strerror", None) or error or type(error).__name__))
