"""What becomes of a recipient whose last attempt may have delivered."""

import pytest

from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, Failed, Outcome, Unknown
from mailfront.mail.reply import reply
from mailfront.transfer.unknown import PATIENCE_ATTEMPTS, after_sending, without_sending

NODE = NodeId("a")
DEFERRED = Deferred(Blame.NODE, reply(451, "4.4.2", "lost"), NODE)
FAILED = Failed(reply(550, "5.2.1", "no"), NODE)
TAKEN = Delivered(NODE, reply(250, "2.0.0", "ok"))


@pytest.mark.parametrize(
    ("there", "can_search", "attempts", "kind"),
    [
        (True, True, 2, Delivered),
        (False, True, 2, None),
        (None, True, 2, Unknown),
        (None, True, PATIENCE_ATTEMPTS + 1, None),
        (None, False, 2, None),
    ],
)
def test_a_message_is_sent_again_only_when_a_search_cannot_help(
    there: bool | None, can_search: bool, attempts: int, kind: type[Outcome] | None
) -> None:
    """Found is delivered; a search that fails is repeated a few times; without a master user there is none."""
    outcome = without_sending(there, NODE, can_search=can_search, attempts=attempts)
    assert outcome is None if kind is None else isinstance(outcome, kind)


def test_a_deferral_does_not_answer_for_the_attempt_before() -> None:
    """A row that nobody could search for stays unknown at its node; one that is surely not there waits like others."""
    kept = after_sending(None, DEFERRED, NODE)
    assert isinstance(kept, Unknown)
    assert kept.node == NODE
    assert after_sending(False, DEFERRED, NODE) is DEFERRED
    for outcome in (FAILED, TAKEN):
        assert after_sending(None, outcome, NODE) is outcome
