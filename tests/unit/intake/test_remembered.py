"""What was delivered under a reply that denied it is skipped for a day."""

from mailfront.intake.remembered import LIFETIME_S, MAX_ENTRIES, Mailbox, RememberedTable, body_sha256
from mailfront.mail.body import MemoryBody
from mailfront.mail.names import MailboxKey, NodeId, NodeUser
from mailfront.mail.outcome import Delivered
from mailfront.mail.reply import reply

DONE = Delivered(NodeId("store1"), reply(250, "2.0.0", "saved"))


def mailbox(name: str) -> Mailbox:
    return MailboxKey(f"{name}@example.edu"), NodeUser(name)


def test_the_same_bytes_from_the_same_sender_are_known_for_a_day() -> None:
    """Another sender, another mailbox, other bytes or another day are not."""
    table, ana = RememberedTable(), mailbox("ana")
    sha256 = body_sha256(MemoryBody(b"x"))
    table.remember("a@b", ana, sha256, DONE, 0.0)
    assert table.find("a@b", ana, sha256, LIFETIME_S - 1) is DONE
    assert table.find("a@b", ana, sha256, LIFETIME_S + 1) is None
    assert table.find("", ana, sha256, 0.0) is None
    assert table.find("a@b", mailbox("bob"), sha256, 0.0) is None
    assert table.find("a@b", ana, body_sha256(MemoryBody(b"y")), 0.0) is None


def test_the_table_is_bounded() -> None:
    """The oldest entries go first."""
    table = RememberedTable()
    for number in range(MAX_ENTRIES + 5):
        table.remember("a@b", mailbox(str(number)), "s", DONE, 0.0)
    assert len(table) == MAX_ENTRIES
    assert table.find("a@b", mailbox("4"), "s", 0.0) is None
    assert table.find("a@b", mailbox("5"), "s", 0.0) is DONE


def test_what_is_over_leaves_an_empty_table() -> None:
    """An empty table asks for no hashes; one that is only old must become empty."""
    table = RememberedTable()
    table.remember("a@b", mailbox("ana"), "s", DONE, 0.0)
    table.remember("a@b", mailbox("bob"), "s", DONE, 10.0)
    table.forget_old(LIFETIME_S + 5)
    assert len(table) == 1
    table.forget("a@b", mailbox("bob"), "s")
    table.forget("a@b", mailbox("bob"), "s")
    assert len(table) == 0
