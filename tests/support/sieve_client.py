"""A ManageSieve client for tests: as much as is needed to log in and to keep a script. Blocking."""

import socket
import ssl
from base64 import b64encode
from types import TracebackType


class SieveClient:
    """One connection. Commands return the lines of the answer; the last one begins with OK, NO or BYE."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 30.0, before: bytes = b"") -> None:
        """`before`: sent first, as a load balancer does with a PROXY header."""
        self._socket: socket.socket = socket.create_connection((host, port), timeout=timeout_s)
        if before:
            self._socket.sendall(before)
        self._file = self._socket.makefile("rb")
        self.greeting = self.answer()

    def __enter__(self) -> "SieveClient":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def answer(self) -> list[str]:
        """Lines up to a status; literals stand in the line that they follow. Empty: the server hung up."""
        lines: list[str] = []
        while line := self._file.readline():
            text = line.decode().rstrip("\r\n")
            while text.endswith("}") and text.rpartition("{")[2][:-1].isdigit():
                size = int(text.rpartition("{")[2][:-1])
                text += "\n" + self._file.read(size).decode() + self._file.readline().decode().rstrip("\r\n")
            lines.append(text)
            if text.split(" ")[0] in ("OK", "NO", "BYE"):
                break
        return lines

    def command(self, *parts: bytes) -> list[str]:
        """Send one command line and return its answer."""
        self._socket.sendall(b" ".join(parts) + b"\r\n")
        return self.answer()

    def starttls(self, context: ssl.SSLContext, name: str = "localhost") -> list[str]:
        """STARTTLS; returns the capabilities that are told again."""
        answer = self.command(b"STARTTLS")
        if not answer[-1].startswith("OK"):
            return answer
        self._file.close()
        self._socket = context.wrap_socket(self._socket, server_hostname=name)
        self._file = self._socket.makefile("rb")
        return self.answer()

    def login(self, user: str, password: str) -> list[str]:
        """AUTHENTICATE PLAIN with an initial response."""
        response = b64encode(f"\0{user}\0{password}".encode())
        return self.command(b'AUTHENTICATE "PLAIN" "%b"' % response)

    def put_script(self, name: str, script: bytes) -> list[str]:
        """PUTSCRIPT."""
        return self.command(b'PUTSCRIPT "%b" {%d+}\r\n%b' % (name.encode(), len(script), script))
