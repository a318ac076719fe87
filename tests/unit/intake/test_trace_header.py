"""Our own header lines, and the foreign ones that must not pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.ids import MessageId
from mailfront.intake.trace_header import message_header, received_count, trace_lines, with_trace
from mailfront.mail.body import MemoryBody
from mailfront.mail.client import ClientInfo

ID = MessageId("0123456789abcdef")


def lines(helo: str = "client.example.org", recipient: str = "", tls: str = "", ip: str = "192.0.2.7") -> bytes:
    client = ClientInfo(ip=ip, port=25, helo=helo, protocol="ESMTP", tls=tls)
    return trace_lines(ID, client, hostname="mx1.example.edu", recipient=recipient, wall_s=1_700_000_000.0)


def test_every_delivery_carries_its_id_and_who_brought_it() -> None:
    """The lines name the id, the client, us, the protocol and the time."""
    text = lines(recipient="ana@example.edu", tls="TLSv1.3 TLS_AES_256_GCM_SHA384").decode()
    assert text.startswith("Mailfront-Id: 0123456789abcdef\r\nReceived: from client.example.org ([192.0.2.7])\r\n")
    assert "by mx1.example.edu (mailfront) with ESMTP id 0123456789abcdef" in text
    assert "(TLSv1.3-TLS_AES_256_GCM_SHA384)" in text
    assert "for <ana@example.edu>;" in text
    assert "14 Nov 2023" in text
    assert text.endswith("\r\n")


def test_an_ipv6_client_is_written_as_such() -> None:
    """RFC 5321 section 4.1.3: IPv6 literals carry their tag."""
    assert b"([IPv6:2001:db8::7])" in lines(ip="2001:db8::7")


@given(st.text(max_size=300))
def test_nothing_that_a_client_calls_itself_breaks_the_header(helo: str) -> None:
    """Whatever HELO says, the block stays two fields of folded, printable ASCII."""
    block = lines(helo=helo)
    assert block.isascii()
    fields = [line for line in block.split(b"\r\n") if line and not line.startswith((b"\t", b" "))]
    assert [field.split(b":")[0] for field in fields] == [b"Mailfront-Id", b"Received"]
    assert all(byte in (9, 13, 10) or 32 <= byte < 127 for byte in block)


@pytest.mark.parametrize(
    ("message", "rest"),
    [
        (b"Mailfront-Id: x\r\nSubject: a\r\n\r\nbody", b"Subject: a\r\n\r\nbody"),
        (
            b"Subject: a\r\nMAILFRONT-Handoff: v1 id=1\r\n\tmore\r\n more\r\nTo: b\r\n\r\n",
            b"Subject: a\r\nTo: b\r\n\r\n",
        ),
        (
            b"Subject: mailfront-id: x\r\n\r\nMailfront-Id: body\r\n",
            b"Subject: mailfront-id: x\r\n\r\nMailfront-Id: body\r\n",
        ),
        (b"\r\nMailfront-Id: body\r\n", b"\r\nMailfront-Id: body\r\n"),
        (b"", b""),
        (b"Mailfront-Id: only header\r\n", b""),
    ],
)
def test_trust_headers_from_outside_are_taken_out(message: bytes, rest: bytes) -> None:
    """`Mailfront-*` fields of the header go, folded or in capitals; everything else stays byte for byte."""
    body = MemoryBody(message)
    travelled = with_trace(body, message_header(body), b"Ours: 1\r\n")
    assert b"".join(travelled.pieces()) == b"Ours: 1\r\n" + rest
    assert travelled.size_bytes == len(b"Ours: 1\r\n" + rest)
    assert travelled.head(12) == (b"Ours: 1\r\n" + rest)[:12]


@pytest.mark.parametrize("message", [b"Mailfront-Id: x", b"A: b\r\nMAILFRONT-Id: x", b"Mailfront-Id:\r\n x"])
def test_the_last_line_needs_no_end(message: bytes) -> None:
    """BDAT may end a message without a line end; the node would add it, and the foreign field would be one."""
    kept = with_trace(MemoryBody(message), message_header(MemoryBody(message)), b"")
    assert b"mailfront-id" not in b"".join(kept.pieces()).lower()


def test_only_received_lines_of_the_header_are_hops() -> None:
    """A Received line in the body, or in another field's text, is no hop."""
    header = message_header(
        MemoryBody(b"Received: a\r\nX: y\r\n Received: no\r\nRECEIVED: b\r\n\r\nReceived: body\r\n")
    )
    assert received_count(header) == 2
