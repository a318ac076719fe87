"""The IMAP dialogue with a storage node until it has logged somebody in. Sans-IO; see `login_dialogue`.

    greeting -> [STARTTLS -> TLS] -> [CAPABILITY, if the node did not name them] -> [ID] + AUTHENTICATE PLAIN
    (or LOGIN where the node has no AUTH=PLAIN; or XOAUTH2, OAUTHBEARER as the client gave it)

ID and the login go out together. ID tells the node who the client is, in the fields that Dovecot reads
(`x-originating-ip` and so on) and believes from `login_trusted_networks`.

Nothing is believed that a node should not say: PREAUTH, a referral to another server, data before TLS, an answer to a
command that was not sent, each is a RemoteProtocolError. The node's text never goes to the client.
"""

import re
from base64 import b64encode
from functools import lru_cache

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.protocol.imap_text import (
    Status,
    StatusLine,
    command_pieces,
    literal_size,
    octets,
    parse_status,
    quoted,
    sasl_plain,
)
from mailfront.protocol.login_dialogue import (
    MAX_LINE_BYTES,
    ClientIdentity,
    LoggedIn,
    NodeCredentials,
    NodeEvent,
    Rejected,
    StartTls,
    ToNode,
    TryLater,
)

MAX_RECEIVED_BYTES = 64 * 1024
"""What a node may say before it has logged somebody in."""

_CAPABILITIES = re.compile(rb"[^ ]+ (?:OK|NO|BAD|BYE) \[CAPABILITY ([^\]]*)\]|\* CAPABILITY (.*)", re.IGNORECASE)
_BEFORE_LOGIN_ONLY = ("AUTH=", "STARTTLS", "LOGINDISABLED", "SASL-IR", "LOGIN-REFERRALS")
_NOT_NOW = frozenset({"UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG", "OVERQUOTA", "CORRUPTION"})
_NOT_SO = frozenset({"PRIVACYREQUIRED", "CANNOT", "CLIENTBUG", "NOPERM"})


class ImapNodeLogin:
    """See the module. A `NodeLogin`."""

    def __init__(self, credentials: NodeCredentials, client: ClientIdentity, starttls: bool) -> None:
        self.capabilities: frozenset[str] = frozenset()
        self.position = "greeting"
        self._credentials = credentials
        self._client = client
        self._starttls = starttls
        self._buffer = b""
        self._received_bytes = 0
        self._named_after_login = ""
        self._events: list[NodeEvent] = []
        self._pending: list[bytes] = []
        self._literal_left = 0
        self._is_over = False

    def receive(self, data: bytes) -> None:
        """See `NodeLogin`."""
        self._buffer = self._buffer + data if self._buffer else data

    def tls_started(self) -> None:
        """See `NodeLogin`."""
        if self.position != "tls":
            raise LocalProtocolError("TLS was not agreed on")
        if self._buffer:
            raise RemoteProtocolError("the node sent data before TLS had started")
        self.capabilities = frozenset()
        self._ask_capabilities()

    def next_event(self) -> NodeEvent | None:
        """See `NodeLogin`."""
        while not self._events:
            if self._is_over:
                return None
            if self.position == "tls":
                if self._buffer:
                    raise RemoteProtocolError("the node sent data after it had agreed to start TLS")
                return None
            line = self._take_line()
            if line is None:
                return None
            self._read(line)
        event = self._events.pop(0)
        if isinstance(event, LoggedIn):
            # Known only now: what follows in the buffer belongs to the client.
            return LoggedIn(event.capabilities, self._buffer)
        return event

    def _take_line(self) -> bytes | None:
        if self._literal_left:
            piece = self._buffer[: self._literal_left]
            self._literal_left -= len(piece)
            self._count(len(piece))
            self._buffer = self._buffer[len(piece) :]
            if self._literal_left:
                return None
        line, found, rest = self._buffer.partition(b"\n")
        if len(line) > MAX_LINE_BYTES:
            raise RemoteProtocolError("the node sent a line that is too long")
        if not found:
            return None
        self._count(len(line))
        self._buffer = rest
        return line.removesuffix(b"\r")

    def _count(self, size_bytes: int) -> None:
        self._received_bytes += size_bytes
        if self._received_bytes > MAX_RECEIVED_BYTES:
            raise RemoteProtocolError(f"the node sent more than {MAX_RECEIVED_BYTES} bytes before the login")

    def _read(self, line: bytes) -> None:
        self._learn(line)
        if self.position == "greeting":
            self._greeting(line)
        elif line.startswith(b"* "):
            self._untagged(line[2:])
        elif line.startswith(b"+"):
            self._continuation()
        else:
            self._tagged(line)

    def _greeting(self, line: bytes) -> None:
        if line[:5].upper() not in (b"* OK", b"* OK "):
            said = parse_status(line[2:]) if line.startswith(b"* ") else None
            if said is None or said.status is not Status.BYE:
                raise RemoteProtocolError(f"not a greeting that can be used: {printable(line, 80)}")
            self._end(TryLater(said.code, said.text))
            return
        if self._starttls:
            self.position = "starttls"
            self._events.append(ToNode(b"s STARTTLS\r\n"))
        elif self.capabilities:
            self._log_in()
        else:
            self._ask_capabilities()

    def _ask_capabilities(self) -> None:
        self.position = "capability"
        self._events.append(ToNode(b"c CAPABILITY\r\n"))

    def _log_in(self) -> None:
        self.position = "login"
        credentials, can = self._credentials, self.capabilities
        first = self._identification() if "ID" in can else b""
        if "AUTH=PLAIN" in can or credentials.mechanism not in ("PLAIN", "LOGIN"):
            pieces = self._authenticate()
        elif credentials.authorize:
            self._end(TryLater("", "the node does not offer AUTH=PLAIN on this connection"))
            return
        elif "LOGINDISABLED" in can:
            self._end(TryLater("", "the node takes no password on this connection (LOGINDISABLED); set tls"))
            return
        else:
            password = quoted(credentials.secret.reveal())
            pieces = command_pieces(b"l LOGIN ", quoted(octets(credentials.user)), b" ", password)
        self._pending = pieces[1:]
        self._events.append(ToNode(first + pieces[0]))

    def _authenticate(self) -> list[bytes]:
        credentials = self._credentials
        if credentials.mechanism in ("PLAIN", "LOGIN"):
            name = b"PLAIN"
            user, authorize = octets(credentials.user), octets(credentials.authorize)
            response = sasl_plain(authorize, user, credentials.secret.reveal())
        else:
            name = credentials.mechanism.encode()
            response = b64encode(credentials.secret.reveal())
        if "SASL-IR" in self.capabilities and len(response) < MAX_LINE_BYTES - 64:
            return [b"l AUTHENTICATE %b %b\r\n" % (name, response)]
        return [b"l AUTHENTICATE %b\r\n" % name, response + b"\r\n"]

    def _identification(self) -> bytes:
        client = self._client
        about = "".join([f"{_quoted(name)} {_quoted(value)} " for name, value in client.about if value.isascii()])
        transport = "TLS" if client.encrypted else "insecure"
        # Addresses and our own id need no escaping.
        fields = (
            f'i ID ({about}"x-originating-ip" "{client.ip}" "x-originating-port" "{client.port}"'
            f' "x-connected-ip" "{client.local_ip}" "x-connected-port" "{client.local_port}"'
            f' "x-session-id" "{client.session}" "x-client-transport" "{transport}")\r\n'
        )
        return fields.encode()

    def _untagged(self, line: bytes) -> None:
        said = parse_status(line)
        if said is not None:
            if said.status is Status.PREAUTH:
                raise RemoteProtocolError("PREAUTH is no answer to a command")
            if said.status is Status.BYE:
                self._end(TryLater(said.code, said.text))
        else:
            self._literal_left = literal_size(line) or 0

    def _continuation(self) -> None:
        if self.position != "login":
            raise RemoteProtocolError("the node asks to go on, and there is nothing to send")
        if self._pending:
            self._events.append(ToNode(self._pending.pop(0)))
        elif self._credentials.mechanism in ("PLAIN", "LOGIN"):
            raise RemoteProtocolError("the node asks to go on, and there is nothing to send")
        else:
            # Why a token is not accepted comes as a challenge; the refusal follows an empty answer (RFC 7628).
            self._events.append(ToNode(b"\r\n"))

    def _tagged(self, line: bytes) -> None:
        tag, _, rest = line.partition(b" ")
        if tag == b"i" and rest[:3] == b"OK " and self.position == "login":
            return
        said = parse_status(rest)
        if said is None or said.status in (Status.PREAUTH, Status.BYE):
            raise RemoteProtocolError(f"not the end of a command: {printable(line, 80)}")
        if said.code.startswith("REFERRAL"):
            raise RemoteProtocolError(f"the node refers to another server: {said.code}")
        if tag == b"s" and self.position == "starttls":
            self._starttls_answered(said)
        elif tag == b"c" and self.position == "capability":
            self._capabilities_answered(said)
        elif tag == b"i" and self.position == "login":
            pass  # a node that does not like our ID still logs people in
        elif tag == b"l" and self.position == "login":
            self._login_answered(said)
        else:
            raise RemoteProtocolError(f"an answer to no command of ours: {printable(line, 80)}")

    def _starttls_answered(self, said: StatusLine) -> None:
        if said.status is not Status.OK:
            self._end(TryLater(said.code, f"no STARTTLS: {said.text}"))
            return
        if self._buffer:
            raise RemoteProtocolError("the node sent data after it had agreed to start TLS")
        self.position = "tls"
        self._events.append(StartTls())

    def _capabilities_answered(self, said: StatusLine) -> None:
        if said.status is Status.OK:
            self._log_in()
        else:
            self._end(TryLater(said.code, f"no CAPABILITY: {said.text}"))

    def _login_answered(self, said: StatusLine) -> None:
        code = said.code.partition(" ")[0]
        if said.status is Status.OK:
            if self._pending:
                raise RemoteProtocolError("the node says OK before it has the whole command")
            self._end(LoggedIn(self._named_after_login, b""))
        elif said.status is Status.BAD or code in _NOT_NOW or code in _NOT_SO:
            self._end(TryLater(said.code, said.text))
        else:
            self._end(Rejected(said.code, said.text))

    def _learn(self, line: bytes) -> None:
        if b"CAPABILITY" not in line.upper():
            return
        match = _CAPABILITIES.match(line)
        if match is not None:
            names, of_the_session = _known(match[1] or match[2] or b"")
            self.capabilities |= names
            if self.position == "login":
                self._named_after_login = of_the_session

    def _end(self, event: NodeEvent) -> None:
        self._is_over = True
        self._events.append(event)


@lru_cache(maxsize=256)
def _known(named: bytes) -> tuple[frozenset[str], str]:
    """A node's list of capabilities: their names in upper case, and as a text those that mean something after the
    login. Nodes say the same again at each login."""
    text = printable(named, MAX_LINE_BYTES)
    words = [word for word in text.split() if not word.upper().startswith(_BEFORE_LOGIN_ONLY)]
    return frozenset(text.upper().split()), " ".join(words)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
