"""A message that a client has begun and not finished: everything up to 354 is said.

with OpenMessage(server.smtp, letter) as message:
    ... something happens ...
    message.finish()            the body and its dot, and the reply
    message.next_reply()        what the server says after that, unasked
"""

import smtplib
import socket
import struct

from tests.support.senders import DOMAIN, SENDER, Letter, Try

TIMEOUT_S = 40.0


class OpenMessage:
    """See the module. What becomes of it is written down in the letter, as one more try."""

    def __init__(self, endpoint: tuple[str, int], letter: Letter) -> None:
        self._letter = letter
        self._client = smtplib.SMTP(*endpoint, local_hostname="client.example.org", timeout=TIMEOUT_S)
        self._client.ehlo("client.example.org")
        self._client.mail(SENDER)
        for mailbox in letter.mailboxes:
            assert self._client.rcpt(f"{mailbox}@{DOMAIN}")[0] == 250
        assert self._client.docmd("DATA")[0] == 354

    def __enter__(self) -> "OpenMessage":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def socket(self) -> socket.socket:
        """The client's connection."""
        assert self._client.sock is not None
        return self._client.sock

    def send(self) -> None:
        """Send the body and its dot; do not wait for the reply."""
        self.socket.sendall(self._letter.message() + b".\r\n")

    def half_close(self) -> None:
        """Say that nothing more will come. Replies can still be read."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection off (RST): nobody will read the reply."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.close()
        self._letter.tries.append(Try(0, "the client broke off", "answer"))

    def reply(self) -> Try:
        """Wait for the reply to the message."""
        code, text = self.next_reply()
        self._letter.tries.append(Try(code, text, "answer"))
        return self._letter.last

    def finish(self) -> Try:
        """Send the body and its dot, and wait for the reply."""
        self.send()
        return self.reply()

    def next_reply(self) -> tuple[int, str]:
        """The next reply, asked for or not; (0, "") if the server only closes."""
        try:
            code, text = self._client.getreply()
        except smtplib.SMTPServerDisconnected:
            return 0, ""
        return max(code, 0), text.decode()
