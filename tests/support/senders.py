"""SMTP clients that keep a ledger: what they sent, what they were told, and where they were left without an answer.

`Letter` is one message to some mailboxes. `send(...)` tries it once in this thread; `Posting` tries it in a thread of
its own, like a real mail server: again and again until it is answered for good. `Stream` posts letters side by side
until it is told to stop.
"""

import smtplib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

from tests.support.clients_from import ClientFrom
from tests.support.ledger import Ledger, message_with

DOMAIN = "example.edu"
SENDER = "sender@example.org"
RETRY_S = 0.1

_tokens = count(1)


@dataclass(frozen=True, slots=True)
class Try:
    """How one try ended. `code` 0: the connection broke. `stage` says where; "answer" is after the final dot."""

    code: int
    text: str
    stage: Literal["connect", "MAIL", "RCPT", "DATA", "answer"]
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300

    @property
    def unanswered(self) -> bool:
        """The final dot was sent and no reply came."""
        return self.stage == "answer" and self.code == 0


@dataclass(slots=True)
class Letter:
    """One message: a token, its mailboxes, its bytes, and how each try ended."""

    mailboxes: Sequence[str]
    size_bytes: int = 0
    token: str = field(default_factory=lambda: f"letter-{next(_tokens)}-{time.time_ns() % 10**9}")
    tries: list[Try] = field(default_factory=list)
    client_ip: str = ""
    """Where it comes from, for a listener that wants a PROXY header; '': from this host."""

    @property
    def last(self) -> Try:
        return self.tries[-1]

    @property
    def acknowledged(self) -> bool:
        return bool(self.tries) and self.last.ok

    def message(self) -> bytes:
        return message_with(self.token, size_bytes=self.size_bytes)

    def enter(self, ledger: Ledger) -> None:
        """Write it into a ledger. RCPTs that were refused are not part of it."""
        refused = self.last.refused if self.tries else {}
        ledger.sent(
            self.token, [name for name in self.mailboxes if name not in refused], acknowledged=self.acknowledged
        )
        for attempt in self.tries:
            if attempt.unanswered:
                ledger.unanswered(self.token)


def send(endpoint: tuple[str, int], letter: Letter, *, timeout_s: float = 40.0) -> Try:
    """Try a letter once over a connection of its own. Never raises for trouble of the server."""
    began_s = time.monotonic()
    result = _send(endpoint, letter, timeout_s)
    letter.tries.append(replace(result, took_s=time.monotonic() - began_s))
    return letter.last


def _send(endpoint: tuple[str, int], letter: Letter, timeout_s: float) -> Try:
    stage: Literal["connect", "MAIL", "RCPT", "DATA", "answer"] = "connect"
    refused: dict[str, tuple[int, str]] = {}
    client = ClientFrom(letter.client_ip, timeout_s=timeout_s) if letter.client_ip else smtplib.SMTP(timeout=timeout_s)
    try:
        code, text = client.connect(*endpoint)
        if code == 220:
            code, text = client.ehlo("client.example.org")
        if code != 250:
            return Try(code, text.decode(), stage)
        stage = "MAIL"
        code, text = client.mail(SENDER)
        if code != 250:
            return Try(code, text.decode(), stage)
        stage = "RCPT"
        for mailbox in letter.mailboxes:
            code, text = client.rcpt(f"{mailbox}@{DOMAIN}")
            if code != 250:
                refused[mailbox] = (code, text.decode())
        if len(refused) == len(letter.mailboxes):
            return Try(code, text.decode(), stage, refused)
        stage = "DATA"
        code, text = client.docmd("DATA")
        if code != 354:
            return Try(code, text.decode(), stage, refused)
        assert client.sock is not None
        client.sock.sendall(letter.message() + b".\r\n")
        stage = "answer"
        code, text = client.getreply()
        client.close()
        return Try(code if code > 0 else 0, text.decode(), stage, refused)
    except (OSError, smtplib.SMTPException) as error:
        return Try(0, repr(error), stage, refused)
    finally:
        client.close()


class Posting:
    """A letter on its way in a thread: tried until 2xx, 5xx, or for `patience_s`."""

    def __init__(
        self, endpoint: tuple[str, int], letter: Letter, *, patience_s: float = 30.0, retries: bool = True
    ) -> None:
        self.letter = letter
        self._endpoint = endpoint
        self._until_s = time.monotonic() + patience_s
        self._retries = retries
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float = 40.0) -> Try:
        """Wait for the end. Returns the last try."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"{self.letter.token} is still on its way after {timeout_s:g} s: {self.letter.tries}")
        return self.letter.last

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            result = send(self._endpoint, self.letter)
            if result.ok or result.code >= 500 or not self._retries or time.monotonic() > self._until_s:
                return
            time.sleep(RETRY_S)


class Stream:
    """Several clients that post letters one after the other until `stop`. A context manager: leaving stops it."""

    def __init__(self, endpoint: tuple[str, int], next_letter: Callable[[], Letter], *, clients: int = 6) -> None:
        self.letters: list[Letter] = []
        self._endpoint = endpoint
        self._next_letter = next_letter
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Stream":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Letter]:
        """Let every client finish its letter. Returns all letters."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60.0)
            if thread.is_alive():
                raise TimeoutError("a client of the stream did not end")
        return self.letters

    @property
    def answered_count(self) -> int:
        """Letters that were acknowledged so far."""
        with self._lock:
            return sum(letter.acknowledged for letter in self.letters)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                letter = self._next_letter()
                self.letters.append(letter)
            end_s = time.monotonic() + 30.0
            while not send(self._endpoint, letter).ok and letter.last.code < 500 and time.monotonic() < end_s:
                time.sleep(RETRY_S)


def is_open(connection: socket.socket) -> bool:
    """Whether the other side has neither closed nor said anything."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.setblocking(True)
