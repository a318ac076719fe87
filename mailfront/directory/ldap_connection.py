"""One LDAP connection, blocking: connect, TLS, bind, search. The only module that imports ldap3.

Searches and binds as somebody are written by `ldap_wire`, on the connection that ldap3 has made; ldap3 reads answers.
Call it in a thread. What ldap3 does by default and is not wanted here: it verifies no certificate (`VerifiedTls` does,
names included, from one prepared context); it reads the schema at each connect and checks names against it; it follows
referrals with our password; its asynchronous strategy accepts an answer that was sent before StartTLS (hence
SAFE_SYNC); a `Server` shared by connections hides that a second one could not connect (hence one `Server` per
connection); a socket whose connect failed stays open. Its receive time-out is a whole number of seconds.

Errors: `ServerDown` if the server cannot be used (connect, TLS, bind, time-out, lost), `SearchRefused` if it answered
this one search with an error. Both name the server and say what to do. Nothing of ldap3 escapes.
"""

import logging
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import ldap3
from ldap3.core.exceptions import LDAPBindError, LDAPException
from ldap3.utils.asn1 import decode_message_fast, ldap_result_to_dict_fast

from mailfront.base.errors import ConfigError, Unavailable
from mailfront.base.printable import printable
from mailfront.base.secret import Secret, read_secret_file
from mailfront.directory.entries import Entry, entry_from_wire
from mailfront.directory.ldap_wire import (
    BASE,
    BIND_RESPONSE,
    SEARCH_DONE,
    SEARCH_ENTRY,
    SEARCH_REFERENCE,
    SUBTREE,
    bind_request,
    search_request,
)
from mailfront.directory.settings import DEFAULT_PORTS, LdapSettings

PAGE_ENTRIES = 500
PAGE_PAUSE_S = 0.03
"""Between two pages of the snapshot: decoding a page holds the interpreter about this long."""

_SUCCESS, _SIZE_LIMIT_EXCEEDED, _NO_SUCH_OBJECT, _INVALID_DN_SYNTAX, _BUSY, _UNAVAILABLE = 0, 4, 32, 34, 51, 52
_NO_PASSWORD_HERE, _WRONG_PASSWORD = 48, 49
_PAGED_RESULTS = "1.2.840.113556.1.4.319"

_decoded: Callable[[bytes], dict[str, Any]] = decode_message_fast
_result: Callable[[Any], dict[str, Any]] = ldap_result_to_dict_fast

_log = logging.getLogger(__name__)


class ServerDown(Unavailable):
    """This server cannot be used now."""


class SearchRefused(Unavailable):
    """This server answered this search with an error."""


class VerifiedTls(ldap3.Tls):
    """ldap3's TLS hook with OpenSSL's own verification, of names and addresses too."""

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = context
        self._server_name = server_name

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        """See `ldap3.Tls`. The socket is handed over before the handshake, so that it can be shut down in it."""
        connection.socket = self._context.wrap_socket(
            connection.socket, server_hostname=self._server_name, do_handshake_on_connect=False
        )
        connection.socket.do_handshake()


class LdapConnection:
    """One connection. One thread at a time; only `shut_down` may be called from another.

    After any exception but SearchRefused it is closed and must not be used again.
    """

    def __init__(self, url: str, settings: LdapSettings, password: Secret | None, tls: ssl.SSLContext | None) -> None:
        """Does not connect."""
        self._url = url
        self._settings = settings
        self._password = password
        self._tls = tls
        self._receive_s = math.ceil(settings.timeout)
        self._ldap: Any = None

    def open(self) -> None:
        """Connect, encrypt, bind. Raises ServerDown."""
        with self._explained():
            self._ldap = self._made()
            self._ldap.open(read_server_info=False)
            if self._settings.starttls:
                self._ldap.start_tls(read_server_info=False)
            _, result, _, _ = self._ldap.bind(read_server_info=False)
            if result["result"] != _SUCCESS:
                raise LDAPBindError(_said(result))

    def _made(self) -> Any:
        settings, parts = self._settings, urlsplit(self._url)
        name = parts.hostname or ""
        server = ldap3.Server(
            self._url.rstrip("/") if parts.scheme == "ldapi" else name,
            port=parts.port or DEFAULT_PORTS[parts.scheme] or None,
            use_ssl=parts.scheme == "ldaps",
            tls=VerifiedTls(self._tls, name) if self._tls is not None else None,
            get_info=ldap3.NONE,
            connect_timeout=settings.timeout,
        )
        password: Any = self._password.reveal() if self._password is not None else None  # bytes are sent as they are
        return ldap3.Connection(
            server,
            user=settings.bind_dn,
            password=password,
            authentication=ldap3.SIMPLE if settings.bind_dn else ldap3.ANONYMOUS,
            client_strategy=ldap3.SAFE_SYNC,
            auto_bind=ldap3.AUTO_BIND_NONE,
            auto_referrals=False,
            auto_range=False,
            auto_escape=False,
            auto_encode=False,
            check_names=False,
            read_only=True,
            raise_exceptions=False,
            return_empty_attributes=False,
            receive_timeout=self._receive_s,
        )

    def search(self, search_filter: str, attributes: tuple[str, ...], limit_count: int) -> list[Entry]:
        """The entries below the base that match, `limit_count` at most. Raises ServerDown, SearchRefused."""
        with self._explained():
            entries, result = self._ask(self._settings.base, SUBTREE, search_filter, attributes, limit_count)
            if result["result"] != _SIZE_LIMIT_EXCEEDED:
                self._check(result)
            return entries

    def entry(self, dn: str, attributes: tuple[str, ...]) -> list[Entry]:
        """The entry of this name; none if there is none, or the name is not one. Raises ServerDown, SearchRefused."""
        with self._explained():
            entries, result = self._ask(dn, BASE, "(objectClass=*)", attributes, 1)
            if result["result"] in {_NO_SUCH_OBJECT, _INVALID_DN_SYNTAX}:
                return []
            self._check(result)
            return entries

    def _ask(
        self, base: str, scope: int, search_filter: str, attributes: tuple[str, ...], limit_count: int
    ) -> tuple[list[Entry], dict[str, Any]]:
        """One search: its entries, and its result. References to other servers are left out."""
        number: int = self._ldap.server.next_message_id()
        request = search_request(
            number, base, scope, search_filter, attributes, size_limit=limit_count, time_limit_s=self._receive_s
        )
        self._ldap.socket.sendall(request)
        entries: list[Entry] = []
        while True:
            for kind, payload in self._received(number):
                if kind == SEARCH_DONE:
                    return entries, _result(payload)
                if kind == SEARCH_ENTRY:
                    entries.append(_entry(payload))
                elif kind != SEARCH_REFERENCE:
                    raise ConnectionError("not an answer to the search")

    def _received(self, number: int) -> Iterator[tuple[int, Any]]:
        """Messages of the server that have come, each its kind and its content."""
        messages = self._ldap.strategy.receiving()
        if not messages:
            raise ConnectionError("closed by the server")
        for message in messages:
            answer = _decoded(message)
            if answer["messageID"] != number:
                raise ConnectionError("the server says what it was not asked: it ends the connection")
            yield answer["protocolOp"], answer["payload"]

    def pages(self, search_filter: str, attributes: tuple[str, ...]) -> Iterator[list[Entry]]:
        """Every entry that matches, in pages. Raises ServerDown, SearchRefused."""
        cookie: bytes | None = None
        while True:
            with self._explained():
                _, result, response, _ = self._ldap.search(
                    self._settings.base,
                    search_filter,
                    dereference_aliases=ldap3.DEREF_NEVER,
                    attributes=list(attributes),
                    paged_size=PAGE_ENTRIES,
                    paged_criticality=True,
                    paged_cookie=cookie,
                )
                self._check(result)
                page = _entries(response)
                cookie = result.get("controls", {}).get(_PAGED_RESULTS, {}).get("value", {}).get("cookie")
            yield page
            if not cookie:
                return
            time.sleep(PAGE_PAUSE_S)

    def verify(self, dn: str, password: Secret) -> bool:
        """Bind as somebody: whether the server says that the password is right. The connection then belongs to that
        entry, and may only be used to verify others. An empty name or password is never sent: servers take it for
        anonymous. Raises ServerDown, SearchRefused."""
        if not dn or not password.reveal():
            return False
        with self._explained():
            result = self._bind_as(dn, password)
            if result["result"] in {_NO_PASSWORD_HERE, _WRONG_PASSWORD}:
                return False
            self._check(result)
            return True

    def _bind_as(self, dn: str, password: Secret) -> dict[str, Any]:
        number: int = self._ldap.server.next_message_id()
        self._ldap.socket.sendall(bind_request(number, dn, password.reveal()))
        ((kind, payload),) = self._received(number)
        if kind != BIND_RESPONSE:
            raise ConnectionError("not an answer to the bind")
        return _result(payload[:3])

    def shut_down(self) -> None:
        """From another thread: the call under way ends with an error."""
        try:
            # Not SSLSocket.shutdown: that would take the TLS layer away under the thread that reads.
            socket.socket.shutdown(self._ldap.socket, socket.SHUT_RDWR)
        except (OSError, TypeError, AttributeError):
            pass  # not connected, or closed meanwhile

    def close(self) -> None:
        """Close without a word to the server, which may hang. Twice does no harm."""
        if self._ldap is None:
            return
        descriptor = self._ldap.socket
        try:
            self._ldap.strategy.close()
        except (LDAPException, OSError, AttributeError):
            pass
        if descriptor is not None:
            descriptor.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SearchRefused:
            raise
        except ServerDown:
            self.close()
            raise
        except (LDAPException, OSError) as error:
            self.close()
            raise ServerDown(self._explain(error)) from None
        except Exception as error:
            # ldap3 raises IndexError, ValueError and others for answers that it cannot parse.
            self.close()
            _log.warning("%s: unexpected error in ldap3", self._url, exc_info=True)
            raise ServerDown(f"{self._url}: the answer cannot be understood: {printable(repr(error))}") from None

    def _explain(self, error: BaseException) -> str:
        said, url = printable(str(error)), self._url
        if isinstance(error, LDAPBindError):
            who = self._settings.bind_dn or "anonymous"
            return f"{url}: bind as {who} refused: {said}; check directory.bind_dn and directory.password_file"
        if "certificate verify failed" in said.lower():
            return f"{url}: the server's certificate is not accepted: {said}; check directory.ca and the host name"
        if "SSL" in said or "startTLS failed" in said:
            return f"{url}: no TLS with this server: {said}; check the URL's scheme and port, and directory.starttls"
        if isinstance(error, TimeoutError):
            return f"{url}: no answer within {self._receive_s}s; check that the server runs"
        return f"{url}: cannot connect, or the connection was lost: {said}; check directory.urls and the server"

    def _check(self, result: dict[str, Any]) -> None:
        code = result["result"]
        if code == _SUCCESS:
            return
        said = _said(result)
        if code in {_BUSY, _UNAVAILABLE}:
            raise ServerDown(f"{self._url}: the server says {said}")
        if code == _NO_SUCH_OBJECT:
            raise SearchRefused(
                f"{self._url}: the base {self._settings.base!r} does not exist or may not be read; check "
                "directory.base and the server's access rules"
            )
        if code == _SIZE_LIMIT_EXCEEDED:
            raise SearchRefused(
                f"{self._url}: the server cuts the list of all entries: {said}; lift its size limit for "
                f"{self._settings.bind_dn or 'anonymous'}, or remove directory.snapshot"
            )
        raise SearchRefused(f"{self._url}: the server refuses the search: {said}; check its access rules and limits")


def connector(url: str, settings: LdapSettings) -> Callable[[], LdapConnection]:
    """Prepare connections to one server: reads the password and the CA file once. Raises ConfigError."""
    password = read_secret_file(settings.password_file) if settings.password_file else None
    context: ssl.SSLContext | None = None
    if settings.starttls or urlsplit(url).scheme == "ldaps":
        try:
            context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
        except OSError as error:
            problem = f"{settings.ca}: cannot be used as directory.ca: {printable(str(error))}; it must hold PEM"
            raise ConfigError((problem,)) from error
    return lambda: LdapConnection(url, settings, password, context)


def _said(result: dict[str, Any]) -> str:
    return printable(f"{result['description']} ({result['result']}) {result.get('message') or ''}".rstrip())


def _entries(response: list[dict[str, Any]]) -> list[Entry]:
    return [
        entry_from_wire(item["dn"], item["raw_attributes"]) for item in response if item["type"] == "searchResEntry"
    ]


def _entry(payload: Any) -> Entry:
    """An entry as ldap3's decoder gives it: its name, then attributes, each a name and its values."""
    attributes = {
        parts[0][3].decode("utf-8", "replace"): [value[3] for value in parts[1][3]] for _, _, _, parts in payload[1][3]
    }
    return entry_from_wire(payload[0][3].decode("utf-8", "replace"), attributes)
