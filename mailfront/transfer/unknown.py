"""What to do with a recipient whose last attempt may have delivered, after its mailbox was searched. Pure.

| the search | what is done |
|---|---|
| found | it is delivered |
| not found | it is sent again, like any other row |
| failed, though there is a master user | it stays unknown and is searched again, for `PATIENCE_ATTEMPTS` attempts |
| failed again and again, or there is nobody to search as | it is sent again: a duplicate is possible |

A row that is sent again without a search stays unknown until the node takes it: an attempt that ends with a deferral
says nothing about the one before.
"""

from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Deferred, Delivered, Outcome, Unknown
from mailfront.mail.reply import reply

PATIENCE_ATTEMPTS = 4


def found(node: NodeId) -> Delivered:
    """The outcome of a row whose mailbox has the message."""
    return Delivered(node, reply(250, "2.0.0", "found in the mailbox"))


def without_sending(there: bool | None, node: NodeId, *, can_search: bool, attempts: int) -> Outcome | None:
    """The outcome if nothing is to be sent now, else None. `attempts` counts this one."""
    if there:
        return found(node)
    if there is None and can_search and attempts <= PATIENCE_ATTEMPTS:
        return Unknown(node, f"the mailbox at {node} cannot be searched now")
    return None


def after_sending(there: bool | None, outcome: Outcome, node: NodeId) -> Outcome:
    """The outcome after it was sent again."""
    if there is None and isinstance(outcome, Deferred):
        return Unknown(node, f"an earlier attempt may have delivered it; now {outcome.reply}")
    return outcome
