"""The rest of the world for mailfront: a Postfix that sends to it and is its smarthost, and a server behind that.

with Outside(front_port=port, domain="example.edu") as outside:
    outside.postfix.inject(...)                 mail for the domain goes to mailfront
    outside.arrived("Action: failed", "her@out.example")    all other mail ends here
"""

import email
import email.policy
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from types import TracebackType

from flufl.bounce import all_failures

from tests.support.lmtp_peer import ScriptedLmtpPeer, Transaction
from tests.support.postfix import PostfixSender
from tests.support.processes import wait_until

PATIENCE_S = 40.0


@dataclass(frozen=True)
class Arrived:
    """One message that came out at the other end."""

    transaction: Transaction

    @property
    def body(self) -> bytes:
        """All of it, as it came."""
        return self.transaction.body

    @property
    def parsed(self) -> EmailMessage:
        """It, as the standard library reads it."""
        found = email.message_from_bytes(self.body, policy=email.policy.default)
        assert isinstance(found, EmailMessage)
        return found

    @property
    def failures(self) -> set[bytes]:
        """Whose delivery failed for good, as flufl.bounce reads it."""
        return set(all_failures(email.message_from_bytes(self.body))[1])

    @property
    def text(self) -> str:
        """The part for people."""
        part = self.parsed.get_body(("plain",)) if not self.parsed.is_multipart() else next(self.parsed.iter_parts())
        assert isinstance(part, EmailMessage)
        return str(part.get_content())

    @property
    def kinds(self) -> list[str]:
        """The content types of its parts."""
        return [part.get_content_type() for part in self.parsed.iter_parts()]


class Outside:
    """See the module. Use it as a context manager."""

    def __init__(self, *, front_port: int, domain: str, settings: Sequence[str] = ()) -> None:
        self.behind = ScriptedLmtpPeer(smtp=True, extensions=("8BITMIME", "SMTPUTF8"))
        self.postfix = PostfixSender(
            self.behind.host,
            self.behind.port,
            settings=[f"transport_maps = inline:{{ {{ {domain} = smtp:[127.0.0.1]:{front_port} }} }}", *settings],
        )

    @property
    def smarthost(self) -> str:
        """For `outbound.smarthost`."""
        return f"{self.postfix.host}:{self.postfix.port}"

    def __enter__(self) -> "Outside":
        self.behind.start()
        self.postfix.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.postfix.stop()
        self.behind.stop()

    def found(self, text: str, to: str) -> list[Arrived]:
        """What has arrived so far for this address, with this text in it."""
        return [
            Arrived(each) for each in self.behind.received() if to in each.recipients and text.encode() in each.body
        ]

    def arrived(self, text: str, to: str) -> Arrived:
        """Wait for the one message with this text to this address."""
        found = wait_until(lambda: self.found(text, to), PATIENCE_S, f"mail to {to} with {text!r}")
        assert len(found) == 1
        return found[0]
