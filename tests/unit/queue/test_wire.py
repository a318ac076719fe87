"""Queue values as JSON and back."""

import json
from dataclasses import replace

import pytest

from mailfront.mail.envelope import BodyType, RecipientOptions
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, HandedOff, Outcome, Unknown
from mailfront.mail.reply import Reply, reply
from mailfront.queue import wire
from mailfront.queue.rows import RecipientState
from tests.support.queue_rows import A, B, queued_message, queued_recipient


def test_messages_and_recipients_come_back() -> None:
    """What one end writes the other end reads, through JSON."""
    message = replace(queued_message(1, 5.5), body_type=BodyType.EIGHTBITMIME, smtputf8=True, envid="QQ+2B", ret="HDRS")
    assert wire.message_from_wire(json.loads(json.dumps(wire.message_to_wire(message)))) == message
    row = replace(
        queued_recipient(3, "Ünal", 7, 99.5),
        state=RecipientState.ACTIVE,
        node=A,
        options=RecipientOptions(notify="NEVER", orcpt="utf-8;x"),
    )
    assert wire.recipient_from_wire(json.loads(json.dumps(wire.recipient_to_wire(row)))) == row


@pytest.mark.parametrize(
    "outcome",
    [
        Delivered(A, Reply(250, "2.0.0", ("ok", "really"))),
        HandedOff(B, A),
        Deferred(Blame.NODE, reply(451, "4.4.1", "away"), None, "storage.disagree"),
        Deferred(Blame.MAILBOX, reply(452, "4.2.2", "full"), A),
        Failed(reply(550, "5.7.1", "no"), None),
        Unknown(B, "lost"),
    ],
)
def test_outcomes_come_back(outcome: Outcome) -> None:
    """Every kind of outcome survives the way."""
    sent = json.loads(json.dumps(wire.outcomes_to_wire({4: outcome})))
    assert wire.outcomes_from_wire(sent) == {4: outcome}


def test_a_kind_that_nobody_knows() -> None:
    """Another version's outcome is an error, not a guess."""
    with pytest.raises(ValueError, match="outcome 'eaten'"):
        wire.outcomes_from_wire([[0, "eaten", "by", "dog"]])
