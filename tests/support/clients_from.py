"""SMTP clients that come from any address: they say it in a PROXY header, to a listener that asks for one."""

import smtplib
import socket
from typing import Any


class ClientFrom(smtplib.SMTP):
    """smtplib's client, with the address `ip`. Use it as a context manager.

    `eager` is said at once, without waiting for the greeting.
    """

    def __init__(
        self, ip: str, endpoint: tuple[str, int] | None = None, *, timeout_s: float = 60.0, eager: bytes = b""
    ) -> None:
        """Connect, if an `endpoint` is given; else `connect` does."""
        self._ip = ip
        self._eager = eager
        self.greeting: tuple[int, bytes] = (0, b"")
        super().__init__(*(endpoint or ("", 0)), local_hostname="client.example.org", timeout=timeout_s)

    def _get_socket(self, host: Any, port: Any, timeout: Any) -> socket.socket:
        connection: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        family, here = ("TCP6", "::1") if ":" in self._ip else ("TCP4", "127.0.0.1")
        connection.sendall(f"PROXY {family} {self._ip} {here} 40000 25\r\n".encode() + self._eager)
        return connection

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> tuple[int, bytes]:
        """See smtplib; keeps the greeting."""
        self.greeting = super().connect(host, port, source_address)
        return self.greeting


def say(
    ip: str,
    endpoint: tuple[str, int],
    data: bytes,
    *recipients: str,
    sender: str = "ann@example.org",
    helo: str = "client.example.org",
) -> tuple[int, str]:
    """Send one message, and return the reply that decided: to the greeting, to a command, or after the dot."""
    try:
        with ClientFrom(ip, endpoint) as client:
            code, text = 0, b""
            for code, text in _dialogue(client, data, recipients, sender, helo):  # noqa: B007
                if code >= 400:
                    break
            return code, text.decode()
    except smtplib.SMTPConnectError as refused:
        reason = refused.smtp_error
        return refused.smtp_code, reason.decode() if isinstance(reason, bytes) else reason


def _dialogue(client: ClientFrom, data: bytes, recipients: tuple[str, ...], sender: str, helo: str) -> Any:
    yield client.ehlo(helo)
    yield client.mail(sender)
    for each in recipients:
        yield client.rcpt(each)
    yield client.data(data)
