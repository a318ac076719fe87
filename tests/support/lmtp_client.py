"""A small blocking LMTP client, for tests that talk to a node themselves.

It knows nothing of mailfront's own LMTP code, on purpose: it checks servers,
and servers check ours. (smtplib.LMTP reads only one reply after the final dot.)
"""

import ssl
from collections.abc import Sequence
from types import TracebackType

from tests.support.processes import Endpoint, connect

TIMEOUT_S = 60.0


class LmtpClient:
    """One connection: `with LmtpClient(endpoint) as client: client.deliver(...)`."""

    def __init__(
        self, endpoint: Endpoint, *, starttls: ssl.SSLContext | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._socket = connect(endpoint, timeout_s=timeout_s)
        self._reader = self._socket.makefile("rb")
        try:
            self.greeting = self.reply()
            self.extensions = self._hello()
            if starttls is not None:
                self._start_tls(starttls)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LmtpClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection without QUIT."""
        self._reader.close()
        self._socket.close()

    def command(self, line: str) -> str:
        """Send one command and return its reply; lines of one reply are joined by a newline."""
        self._socket.sendall(line.encode() + b"\r\n")
        return self.reply()

    def reply(self) -> str:
        """Read one reply. Raises ConnectionError at the end of the stream."""
        lines: list[str] = []
        while True:
            raw = self._reader.readline()
            if not raw.endswith(b"\r\n"):
                raise ConnectionError(f"the server ended after {lines!r} and {raw!r}")
            lines.append(raw[:-2].decode())
            if raw[3:4] != b"-":
                return "\n".join(lines)

    def deliver(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, str]:
        """Send one message (CRLF line ends); return the last word about each recipient.

        A recipient refused at RCPT has that reply, the others the one after the dot.
        """
        reply = self.command(f"MAIL FROM:<{sender}>")
        if not reply.startswith("250"):
            return dict.fromkeys(recipients, reply)
        replies = {recipient: self.command(f"RCPT TO:<{recipient}>") for recipient in recipients}
        accepted = [recipient for recipient, reply in replies.items() if reply.startswith("2")]
        if not accepted:
            self.command("RSET")
            return replies
        reply = self.command("DATA")
        if not reply.startswith("354"):
            return replies | dict.fromkeys(accepted, reply)
        stuffed = message.replace(b"\r\n.", b"\r\n..")
        self._socket.sendall((b"." if stuffed.startswith(b".") else b"") + stuffed + b".\r\n")
        return replies | {recipient: self.reply() for recipient in accepted}

    def _start_tls(self, context: ssl.SSLContext) -> None:
        reply = self.command("STARTTLS")
        if not reply.startswith("220"):
            raise RuntimeError(f"STARTTLS: {reply}")
        self._reader.close()
        self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        self._reader = self._socket.makefile("rb")
        self.extensions = self._hello()

    def _hello(self) -> list[str]:
        return [line[4:] for line in self.command("LHLO client.example.edu").split("\n")[1:]]
