"""A mailbox that its node called full is refused at RCPT for ten minutes."""

from mailfront.base.clock import ManualClock
from mailfront.intake.full_mailboxes import MAX_ENTRIES, REMEMBERED_S, FullMailboxes
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Fate
from mailfront.mail.reply import reply

ANA, S1 = MailboxKey("ana"), NodeId("store1")
FULL = Deferred(Blame.MAILBOX, reply(452, "4.2.2", "over quota"), S1)
REFUSED = Failed(reply(552, "5.2.2", "over quota"), S1)
DONE = Delivered(S1, reply(250, "2.0.0", "saved"))


def made() -> tuple[FullMailboxes, ManualClock, list[MailboxKey]]:
    """An empty table, its clock, and what it passed on."""
    clock, told = ManualClock(), list[MailboxKey]()
    return FullMailboxes(clock, told.append), clock, told


def test_a_nodes_word_is_remembered_for_a_while_and_passed_on() -> None:
    """4.2.2 and 5.2.2 alike; after ten minutes the node is asked again."""
    for outcome in (FULL, REFUSED):
        full, clock, told = made()
        full.learn([(ANA, outcome)])
        assert full.is_full(ANA)
        assert told == [ANA]
        clock.advance(REMEMBERED_S + 1.0)
        assert not full.is_full(ANA)


def test_a_delivery_ends_it_at_once() -> None:
    """Who made room gets mail again through the process that saw it."""
    full, _, _ = made()
    full.note(ANA)
    full.learn([(ANA, DONE)])
    assert not full.is_full(ANA)


def test_other_refusals_and_our_own_words_say_nothing_of_room() -> None:
    """Only the node knows."""
    ours = Deferred(Blame.MAILBOX, reply(452, "4.2.2", "over quota"), None)
    closed: Fate = Failed(reply(550, "5.2.1", "closed"), S1)
    full, _, told = made()
    full.learn([(ANA, ours), (ANA, closed)])
    assert not full.is_full(ANA)
    assert told == []


def test_the_table_is_bounded() -> None:
    """The oldest goes first."""
    full, _, _ = made()
    for number in range(MAX_ENTRIES + 1):
        full.note(MailboxKey(str(number)))
    assert not full.is_full(MailboxKey("0"))
    assert full.is_full(MailboxKey(str(MAX_ENTRIES)))
