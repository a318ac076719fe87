"""Is a node well? The rules, pure: evidence and time in, state out. `node_table` holds the states.

Each service of a node has its own state. LMTP, IMAP, POP3 and SIEVE are the protocols; HANDOFF is the node's handoff
account: a node that refuses it still serves its own mailboxes, it only cannot stand in for others.

    evidence                                             UP         SUSPECT     DOWN
    connect, TLS or greeting failed                      SUSPECT    SUSPECT     DOWN
    3 different messages failed within 60 s (*)          SUSPECT    SUSPECT     DOWN
    3 different mailboxes unknown within 60 s (*)        SUSPECT    SUSPECT     DOWN
    probe failed                                         SUSPECT    DOWN        DOWN
    probe succeeded (**)                                 UP         UP          UP
    a message was delivered                              UP         UP          UP

(*) with no delivery between them: one mailbox that fails again and again on a node that serves all others says
nothing about the node. (**) A probe cannot see everything that mail sees. A node that falls again within 5 minutes
after a good probe stays SUSPECT for 5 s, then 10, 20, 40, at most 60, whatever its probes say; a delivery ends that.

SUSPECT and DOWN are treated alike by traffic: not tried, fail fast. They differ in what is known: DOWN was confirmed by
a probe. Neither changes who owns a mailbox.

The administrator's word: `active`; `draining` (serves its own mailboxes, takes no mail for others); `maintenance`
(treated as down, without alarm).

All times are monotonic seconds; on one machine they can be compared between processes.
"""

from dataclasses import dataclass, replace
from enum import Enum

from mailfront.base.backoff import exponential_s
from mailfront.base.printable import printable
from mailfront.mail.names import MailboxKey

WITNESSES_COUNT = 3
WINDOW_S = 60.0
RELAPSE_WITHIN_S = 300.0
FIRST_HOLD_S = 5.0
LONGEST_HOLD_S = 60.0


class Service(Enum):
    """What a node is asked for."""

    LMTP = "lmtp"
    IMAP = "imap"
    POP3 = "pop3"
    SIEVE = "sieve"
    HANDOFF = "handoff"


class Health(Enum):
    """What is known about one service of a node."""

    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"


class AdminState(Enum):
    """What the administrator says about a node."""

    ACTIVE = "active"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """One service of one node. `witnesses` are recent failures that do not count alone: (what, when), oldest first.

    `good_s` is when the last proof of health began, `held_until_s` until when a probe cannot lift SUSPECT, `relapses`
    how often it fell again soon after a good probe. `local` is set on what a worker saw itself.
    """

    health: Health = Health.UP
    reason: str = ""
    since_s: float = 0.0
    good_s: float = -1e9
    lifted_s: float = -1e9
    held_until_s: float = -1e9
    relapses: int = 0
    witnesses: tuple[tuple[str, float], ...] = ()
    local: bool = False


WELL = ServiceState()


def connect_failed(state: ServiceState, now_s: float, text: str) -> ServiceState:
    """The node could not be reached, or broke off before it was ready to take a message."""
    return suspect(state, now_s, f"cannot connect: {text}")


def failed_after_connect(state: ServiceState, now_s: float, witness: str, text: str) -> ServiceState:
    """A message (or, for sessions, a client) failed on a node that had accepted the connection."""
    return _testify(
        state, now_s, f"failed {witness}", f"{WITNESSES_COUNT} messages or clients failed, the last: {text}"
    )


def unknown_at_node(state: ServiceState, now_s: float, key: MailboxKey) -> ServiceState:
    """The node does not know a mailbox that the directory knows."""
    return _testify(state, now_s, f"unknown {key}", f"{WITNESSES_COUNT} mailboxes are unknown to the node")


def probe_failed(state: ServiceState, now_s: float, text: str) -> ServiceState:
    """The prober got a wrong answer or none. The second failure in a row confirms DOWN."""
    if state.health is Health.UP:
        return suspect(state, now_s, f"probe failed: {text}")
    reason = f"probe failed: {text}"
    if state.health is Health.DOWN:
        return replace(state, reason=reason)
    return replace(state, health=Health.DOWN, reason=reason, since_s=now_s)


def probe_ok(state: ServiceState, now_s: float, began_s: float) -> ServiceState:
    """A probe that began at `began_s` went well. It proves nothing about what happened after it began."""
    if state.health is Health.UP:
        return replace(state, good_s=began_s)
    if now_s < state.held_until_s or began_s < state.since_s:
        return state
    return replace(WELL, since_s=now_s, good_s=began_s, lifted_s=now_s, relapses=state.relapses)


def succeeded(state: ServiceState, now_s: float) -> ServiceState:
    """The node took a message. It is well, whatever was thought before."""
    if state.health is Health.UP:
        return replace(state, witnesses=()) if state.witnesses else state
    return replace(WELL, since_s=now_s, good_s=now_s)


def suspect(state: ServiceState, now_s: float, reason: str) -> ServiceState:
    """Somebody has evidence that counts at once. A state that is already bad stays as it is."""
    if state.health is not Health.UP:
        return state
    relapses = state.relapses + 1 if now_s - state.lifted_s < RELAPSE_WITHIN_S else 0
    hold_s = exponential_s(relapses, first_s=FIRST_HOLD_S, most_s=LONGEST_HOLD_S) if relapses else 0.0
    return replace(
        state,
        health=Health.SUSPECT,
        reason=printable(reason, 200),
        since_s=now_s,
        held_until_s=now_s + hold_s,
        relapses=relapses,
        witnesses=(),
        local=True,
    )


def _testify(state: ServiceState, now_s: float, witness: str, reason: str) -> ServiceState:
    """Note one failure; three different ones of a kind within the window make the service SUSPECT."""
    kept = tuple(seen for seen in state.witnesses if now_s - seen[1] < WINDOW_S and seen[0] != witness)
    state = replace(state, witnesses=(*kept, (witness, now_s))[-2 * WITNESSES_COUNT :])
    kind = witness.partition(" ")[0] + " "
    if sum(seen.startswith(kind) for seen, _ in state.witnesses) < WITNESSES_COUNT:
        return state
    return suspect(state, now_s, reason)
