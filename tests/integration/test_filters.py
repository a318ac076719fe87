"""The filter chain before real scanners and real nodes: what clients hear, what arrives, what stays in quarantine."""

import smtplib
from collections.abc import Iterator, Sequence
from itertools import count

import pytest

from tests.support.dovecot import DovecotNode
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.rspamd import GTUBE, Rspamd

_numbers = count(1)
USERS = [{"address": f"user{number}@example.edu", "mailbox": f"filters{number}"} for number in range(40)]


@pytest.fixture(scope="module")
def server(three_nodes: Sequence[DovecotNode], rspamd: Rspamd) -> Iterator[MailfrontServer]:
    """mailfront with a chain of real scanners."""
    started = MailfrontServer(
        three_nodes,
        [*USERS, {"address": "postmaster@example.edu", "mailbox": "postmaster"}],
        listen=[
            {"role": "smtp", "address": f"127.0.0.1:{free_port()}"},
            {"role": "lmtp", "address": f"127.0.0.1:{free_port()}"},
        ],
        settings={
            "filter": [
                {"name": "rspamd", "kind": "rspamd", "on_error": "accept", "settings": {"url": rspamd.url}},
            ]
        },
        name="filters",
    )
    started.start()
    yield started
    started.stop()


def message(text: str, *, subject: str = "hello", header: str = "") -> bytes:
    """A message with a text of one line."""
    return (
        f"From: ann@example.org\r\nTo: user@example.edu\r\nSubject: {subject}\r\n{header}"
        f"Message-Id: <{next(_numbers)}@example.org>\r\n\r\n{text}\r\n"
    ).encode()


def sent(server: MailfrontServer, data: bytes, *recipients: str) -> tuple[int, str]:
    """Send over SMTP; returns what was said after the dot."""
    with smtplib.SMTP(*server.smtp, timeout=30) as client:
        client.ehlo("client.example.org")
        assert client.mail("ann@example.org")[0] == 250
        for recipient in recipients:
            assert client.rcpt(recipient)[0] == 250
        code, text = client.data(data)
        return code, text.decode()


def test_gtube_is_refused_while_the_client_waits(server: MailfrontServer) -> None:
    """rspamd says reject, so the client hears a 5xx with rspamd's own words."""
    assert sent(server, message(GTUBE), "user0@example.edu") == (550, "5.7.1 Gtube pattern")


def test_ordinary_mail_passes(server: MailfrontServer) -> None:
    """A clean message is delivered while the client waits."""
    code, text = sent(server, message("good morning"), "user0@example.edu")
    assert (code, text.rpartition(" ")[2]) == (250, "delivered")
