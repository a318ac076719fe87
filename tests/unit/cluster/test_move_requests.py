"""Move requests: newest word per mailbox, bounded, forgotten after a day."""

from mailfront.base.clock import ManualClock
from mailfront.cluster.move_requests import MOST_MOVE_REQUESTS_COUNT, MoveRequestTable
from mailfront.mail.names import MailboxKey, NodeId

HOME = NodeId("a")


def test_one_request_per_mailbox() -> None:
    """A mailbox that is seen again keeps one entry, with the newest host."""
    table = MoveRequestTable(ManualClock())
    table.note(MailboxKey("ana"), HOME, "b")
    table.note(MailboxKey("ana"), HOME, "c\r\n")
    assert [(request.key, request.host) for request in table.current()] == [("ana", "c??")]


def test_forgotten_after_a_day() -> None:
    """A request that nothing repeats ends."""
    clock = ManualClock()
    table = MoveRequestTable(clock)
    table.note(MailboxKey("ana"), HOME, "b")
    clock.advance(86_399)
    assert len(table.current()) == 1
    clock.advance(2)
    assert table.current() == ()


def test_bounded() -> None:
    """The oldest go first."""
    table = MoveRequestTable(ManualClock())
    for number in range(MOST_MOVE_REQUESTS_COUNT + 5):
        table.note(MailboxKey(f"u{number}"), HOME, "b")
    assert len(table.current()) == MOST_MOVE_REQUESTS_COUNT
    assert table.current()[0].key == "u5"
