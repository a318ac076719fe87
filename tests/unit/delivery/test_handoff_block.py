"""The handoff block survives what a mailbox server does to a message, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.ids import MessageId
from mailfront.base.secret import Secret
from mailfront.delivery.handoff_block import (
    BlockInvalid,
    HandoffEnvelope,
    HandoffRecipient,
    message_matches,
    open_block,
    write_block,
)
from mailfront.mail.body import MemoryBody
from mailfront.mail.envelope import RecipientOptions
from mailfront.mail.names import MailboxKey, NodeId, NodeUser

SECRET = Secret(b"k" * 32)


def envelope(recipients_count: int = 2, reverse_path: str | None = "a@example.org") -> HandoffEnvelope:
    return HandoffEnvelope(
        id=MessageId("0123456789abcdef"),
        home=NodeId("store2"),
        reverse_path=reverse_path,
        body_type="8BITMIME",
        smtputf8=False,
        ret="HDRS",
        envid="X+41",
        arrived_s=1.5,
        recipients=tuple(
            HandoffRecipient(
                number=number,
                address=f"u{number}@example.edu",
                mailbox_key=MailboxKey(f"u{number}@example.edu"),
                node_user=NodeUser(f"u{number}+x"),
                options=RecipientOptions(notify="NEVER", orcpt="rfc822;Q@example.org"),
            )
            for number in range(recipients_count)
        ),
    )


@given(
    body=st.binary(max_size=300),
    above=st.sampled_from([b"", b"Return-Path: <a@b>\r\nDelivered-To: handoff@example.edu\r\n"]),
    recipients_count=st.integers(1, 60),
    sender=st.sampled_from([None, "ü@exämple.org"]),
)
def test_round_trip(body: bytes, above: bytes, recipients_count: int, sender: str | None) -> None:
    """What was handed off comes back, whatever the holder put above it and however long the envelope is."""
    sent = envelope(recipients_count, sender)
    block = write_block(sent, MemoryBody(body), SECRET)
    stored = above + block + body + (b"" if body.endswith(b"\r\n") else b"\r\n")
    received, start, sha256 = open_block(stored, SECRET)
    assert received == sent
    assert message_matches(iter([stored[start:]]), sha256)
    assert max(map(len, block.split(b"\r\n"))) <= 998


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(at: int, bit: int) -> None:
    """Any changed bit in block or message is refused."""
    body = b"Subject: x\r\n\r\nhello\r\n"
    stored = bytearray(write_block(envelope(), MemoryBody(body), SECRET) + body)
    begin = stored.index(b"Mailfront-Handoff")
    stored[begin + at % (len(stored) - begin)] ^= 1 << bit
    try:
        _, start, sha256 = open_block(bytes(stored), SECRET)
    except BlockInvalid:
        return
    assert not message_matches(iter([bytes(stored[start:])]), sha256)


def test_another_key_is_refused() -> None:
    """A block written under another secret is not ours."""
    block = write_block(envelope(), MemoryBody(b""), Secret(b"other"))
    with pytest.raises(BlockInvalid, match="secret_file"):
        open_block(block, SECRET)
