"""An IMAP client that logs in, searches, fetches and deletes (RFC 3501, RFC 9051, RFC 4315 UIDPLUS). Sans-IO.

Bytes go in by `receive`, events come out of `next_event` (take them all, until None, before the next `receive`), bytes
to send come back from the command methods and from `Send` events. One command at a time: the next one may be sent after
`Completed`.

    Greeting -> [capability] -> [starttls -> Completed OK -> TLS -> tls_started -> capability] -> login or
    authenticate_plain -> select -> search, fetch, delete, expunge ... -> logout

A message is never held here: its bytes come out as `BodyPiece` events as they arrive, between `BodyStart` and
`BodyEnd`. `BodyEnd` comes only if the server named the UID that was asked for.

Nothing that a server says before TLS is believed: PREAUTH is refused, a byte left after the answer to STARTTLS ends the
connection, and what was learned before is forgotten. Names and passwords are sent quoted, or as literals: nothing in
them can become a command.

Limits: a line `MAX_LINE_BYTES`; a SEARCH response `MAX_SEARCH_BYTES`; a message as given to `fetch`; any other literal
`MAX_LINE_BYTES`. Beyond them, for a tag that is not ours and for anything that is not IMAP: RemoteProtocolError; close
the connection. LocalProtocolError: commands in the wrong order, or a NUL in a string.
"""

import re
from collections.abc import Sequence
from datetime import date

from mailfront.base.errors import LocalProtocolError, RemoteProtocolError
from mailfront.base.printable import printable
from mailfront.base.secret import Secret
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
from mailfront.protocol.imap_text import (
    Status,
    StatusLine,
    body_follows,
    capabilities,
    command_pieces,
    fetch_uid,
    folder_name,
    inline_body,
    is_fetch,
    literal_size,
    octets,
    parse_status,
    quoted,
    sasl_plain,
    search_uids,
)

MAX_LINE_BYTES = 8192
MAX_SEARCH_BYTES = 1024 * 1024
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,100}")


class ImapClient:
    """See the module. One per connection."""

    def __init__(self) -> None:
        self.capabilities: frozenset[str] = frozenset()
        """What the server said it can do; empty until it says so, and again after TLS and login."""
        self._buffer = b""
        self._start = 0
        self._scanned = 0
        self._greeted = False
        self._awaits_tls = False
        self._tags_count = 0
        self._tag = b""
        self._verb = ""
        self._pieces: list[bytes] = []
        self._events: list[Event] = []
        self._literal_left = 0
        self._literal_is_body = False
        # A response that is spread over several lines by literals: its lines so far.
        self._response = b""
        self._in_response = False
        self._has_body = False
        self._uid = 0
        self._limit_bytes = 0
        self._body_seen = False

    # Commands. Each returns the bytes to send.

    def capability(self) -> bytes:
        """Ask what the server can do; `capabilities` is set when `Completed` comes."""
        return self._begin("CAPABILITY", b"CAPABILITY")

    def starttls(self) -> bytes:
        """Ask for TLS. After `Completed` with OK shake hands, then call `tls_started`."""
        return self._begin("STARTTLS", b"STARTTLS")

    def tls_started(self) -> None:
        """TLS is up: all that was said before is forgotten. For implicit TLS it need not be called."""
        if not self._awaits_tls:
            raise LocalProtocolError("TLS was not agreed on")
        if self._start < len(self._buffer):
            raise RemoteProtocolError("the server sent data before TLS had started")
        self._awaits_tls = False
        self.capabilities = frozenset()

    def login(self, user: str, password: Secret) -> bytes:
        """LOGIN. Not if `capabilities` has LOGINDISABLED."""
        return self._begin("LOGIN", b"LOGIN ", quoted(octets(user)), b" ", quoted(password.reveal()))

    def authenticate_plain(self, authorize: str, user: str, password: Secret) -> bytes:
        """AUTHENTICATE PLAIN: log in with `user`'s password to act as `authorize` ('': as `user`). One round trip where
        the server can do SASL-IR."""
        response = sasl_plain(octets(authorize), octets(user), password.reveal())
        if "SASL-IR" in self.capabilities:
            return self._begin("AUTHENTICATE", b"AUTHENTICATE PLAIN " + response)
        first = self._begin("AUTHENTICATE", b"AUTHENTICATE PLAIN")
        self._pieces = [response + b"\r\n"]
        return first

    def select(self, mailbox: str, *, read_only: bool = False) -> bytes:
        """SELECT or EXAMINE. `mailbox` in ASCII, as the server writes it."""
        if not mailbox.isascii():
            raise LocalProtocolError("a mailbox name must be written in ASCII (modified UTF-7)")
        verb = "EXAMINE" if read_only else "SELECT"
        return self._begin(verb, verb.encode() + b" ", quoted(octets(mailbox)))

    def list_folders(self) -> bytes:
        """LIST of all folders; each comes as a `Folder`."""
        return self._begin("LIST", b'LIST "" "*"')

    def search_header(self, name: str, value: str, since: date | None = None) -> bytes:
        """UID SEARCH for messages whose header field `name` contains `value`, that arrived on `since` or later. Not
        for values outside ASCII."""
        if _HEADER_NAME.fullmatch(name) is None or not value.isascii():
            raise LocalProtocolError("a header search needs a field name and a value in ASCII")
        since_key = b"" if since is None else b"SINCE %d-%b-%d " % (since.day, _MONTHS[since.month - 1], since.year)
        criteria = b"UID SEARCH " + since_key + b"HEADER "
        return self._begin("SEARCH", criteria, name.encode(), b" ", quoted(value.encode()))

    def search_all(self) -> bytes:
        """UID SEARCH for all messages, those that are marked as deleted too."""
        return self._begin("SEARCH", b"UID SEARCH ALL")

    def fetch(self, uid: int, limit_bytes: int, *, head_bytes: int | None = None) -> bytes:
        """UID FETCH of one whole message, or of its first `head_bytes`, without marking it as read. More than
        `limit_bytes` is a RemoteProtocolError. `Completed` without `BodyEnd`: there is no such message."""
        part = b"" if head_bytes is None else b"<0.%d>" % head_bytes
        data = self._begin("FETCH", b"UID FETCH %d (UID BODY.PEEK[]%b)" % (uid, part))
        self._uid, self._limit_bytes, self._body_seen = uid, limit_bytes, False
        return data

    def delete(self, uids: Sequence[int]) -> bytes:
        """Mark messages as deleted (at most a few hundred at a time)."""
        return self._begin("STORE", b"UID STORE %b +FLAGS.SILENT (\\Deleted)" % _set(uids))

    def expunge(self, uids: Sequence[int]) -> bytes:
        """Remove messages that are marked: these where the server has UIDPLUS, else all that are."""
        if "UIDPLUS" in self.capabilities:
            return self._begin("EXPUNGE", b"UID EXPUNGE %b" % _set(uids))
        return self._begin("EXPUNGE", b"EXPUNGE")

    def noop(self) -> bytes:
        """NOOP: a server may tell of new messages only at the end of a command; this is one."""
        return self._begin("NOOP", b"NOOP")

    def logout(self) -> bytes:
        """LOGOUT; a `Bye` comes before `Completed`."""
        return self._begin("LOGOUT", b"LOGOUT")

    def _begin(self, verb: str, *parts: bytes) -> bytes:
        if not self._greeted or self._tag or self._awaits_tls:
            raise LocalProtocolError(f"{verb} while {self._verb or 'the connection'} is not ready")
        self._tags_count += 1
        pieces = command_pieces(b"m%d " % self._tags_count, *parts)
        if any(len(piece) > MAX_LINE_BYTES for piece in pieces):
            raise LocalProtocolError(f"{verb} with a string that is too long")
        self._tag, self._verb = b"m%d" % self._tags_count, verb
        self._pieces = pieces[1:]
        return pieces[0]

    # What the server says.

    def receive(self, data: bytes) -> None:
        """Take bytes from the server."""
        rest = self._buffer[self._start :]
        self._scanned -= self._start
        self._buffer = rest + data if rest else data
        self._start = 0

    def next_event(self) -> Event | None:
        """The next event, or None if more bytes are needed. Raises RemoteProtocolError."""
        while not self._events:
            if self._awaits_tls:
                if self._start < len(self._buffer):
                    raise RemoteProtocolError("the server sent data after it had agreed to start TLS")
                return None
            if not (self._take_literal() if self._literal_left else self._take_line()):
                return None
        return self._events.pop(0)

    def _take_literal(self) -> bool:
        piece = self._buffer[self._start : self._start + self._literal_left]
        self._start += len(piece)
        self._scanned = self._start
        self._literal_left -= len(piece)
        if piece and self._literal_is_body:
            self._events.append(BodyPiece(piece))
        return bool(piece)

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\n", max(self._scanned, self._start))
        size = (end if end >= 0 else len(self._buffer)) - self._start
        if size > MAX_LINE_BYTES and size > self._line_limit_bytes():
            raise RemoteProtocolError(f"a line is longer than {self._line_limit_bytes()} bytes")
        if end < 0:
            self._scanned = len(self._buffer)
            return False
        line = self._buffer[self._start : end].removesuffix(b"\r")
        self._start = self._scanned = end + 1
        if self._in_response:
            self._go_on(line)
        elif not self._greeted:
            self._greeting(line)
        elif line.startswith(b"* "):
            self._untagged(line[2:])
        elif line.startswith(b"+"):
            self._continuation()
        else:
            self._tagged(line)
        return True

    def _line_limit_bytes(self) -> int:
        is_search = self._verb == "SEARCH" and self._buffer[self._start : self._start + 9].upper() == b"* SEARCH "
        return MAX_SEARCH_BYTES if is_search and not self._in_response else MAX_LINE_BYTES

    def _greeting(self, line: bytes) -> None:
        said = parse_status(line[2:]) if line.startswith(b"* ") else None
        if said is None or said.status in (Status.NO, Status.BAD):
            raise RemoteProtocolError(f"not an IMAP greeting: {printable(line, 80)}")
        if said.status is Status.PREAUTH:
            raise RemoteProtocolError("the server says that somebody is logged in already (PREAUTH)")
        if said.status is Status.BYE:
            self._events.append(Bye(said.code, said.text))
            return
        self._greeted = True
        self._learn(said)
        self._events.append(Greeting(said.text))

    def _untagged(self, line: bytes) -> None:
        said = parse_status(line)
        if said is not None:
            if said.status is Status.PREAUTH:
                raise RemoteProtocolError("PREAUTH is no answer to a command")
            self._learn(said)
            if said.status is Status.BYE:
                self._events.append(Bye(said.code, said.text))
            return
        found = capabilities(line)
        if found is not None:
            self.capabilities = found
            return
        if self._verb == "LIST" and (folder := folder_name(line)) is not None:
            if folder:
                self._events.append(Folder(folder))
            return
        uids = search_uids(line) if self._verb == "SEARCH" else None
        if uids:
            self._events.append(SearchResult(tuple(uids)))
        elif uids is None:
            self._response, self._in_response, self._has_body = b"", True, False
            self._go_on(line)

    def _go_on(self, line: bytes) -> None:
        """Take one line of a response that literals may spread over several."""
        size = literal_size(line)
        self._response += line + b" "
        if len(self._response) > 2 * MAX_LINE_BYTES:
            raise RemoteProtocolError(f"a response is longer than {2 * MAX_LINE_BYTES} bytes")
        is_ours = self._verb == "FETCH" and is_fetch(self._response)
        if size is not None:
            self._literal_is_body = is_ours and body_follows(line)
            if self._literal_is_body:
                self._begin_body(size)
            elif size > MAX_LINE_BYTES:
                raise RemoteProtocolError(f"a literal of {size} bytes where none was asked for")
            self._literal_left = size
            return
        if is_ours and (body := inline_body(line)) is not None:
            self._begin_body(len(body))
            if body:
                self._events.append(BodyPiece(body))
        self._in_response = False
        # A FETCH response without a message is news about flags, of any message.
        if self._has_body:
            self._end_body()

    def _begin_body(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise RemoteProtocolError(f"a message of {size_bytes} bytes; at most {self._limit_bytes} are taken")
        if self._body_seen:
            raise RemoteProtocolError("the server sent more than one message for one UID")
        self._body_seen = self._has_body = True
        self._events.append(BodyStart(size_bytes))

    def _end_body(self) -> None:
        uid = fetch_uid(self._response)
        if uid != self._uid:
            raise RemoteProtocolError(f"asked for message {self._uid}, and the server sent {uid}")
        self._events.append(BodyEnd(self._uid))

    def _continuation(self) -> None:
        if not self._pieces:
            raise RemoteProtocolError("the server asks to go on, and there is nothing to send")
        self._events.append(Send(self._pieces.pop(0)))

    def _tagged(self, line: bytes) -> None:
        tag, _, rest = line.partition(b" ")
        if not self._tag or tag != self._tag:
            raise RemoteProtocolError(f"an answer to no command of ours: {printable(line, 80)}")
        said = parse_status(rest)
        if said is None or said.status in (Status.PREAUTH, Status.BYE):
            raise RemoteProtocolError(f"not the end of a command: {printable(line, 80)}")
        if said.status is Status.OK:
            if self._pieces:
                raise RemoteProtocolError("the server says OK before it has the whole command")
            self._awaits_tls = self._verb == "STARTTLS"
            if self._awaits_tls and self._start < len(self._buffer):
                raise RemoteProtocolError("the server sent data after it had agreed to start TLS")
            if self._verb in ("LOGIN", "AUTHENTICATE", "STARTTLS"):
                self.capabilities = frozenset()
        self._learn(said)
        self._tag, self._verb, self._pieces = b"", "", []
        self._events.append(Completed(said.status, said.code, said.text))

    def _learn(self, said: StatusLine) -> None:
        found = capabilities(said.code.encode())
        if found is not None:
            self.capabilities = found


def _set(uids: Sequence[int]) -> bytes:
    if not uids or min(uids) < 1:
        raise LocalProtocolError("no message is named")
    return b",".join(b"%d" % uid for uid in uids)
