"""Scripted nodes that refuse, stall, break off and miscount: what the client hears, and what is kept.

The whole way, from the SMTP client to the database, for each line of the outcome table and each line of the fold. The
nodes have no IMAP: nothing can be searched, so an unknown outcome is sent again, to that node alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.fault_cluster import FaultCluster
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer

SETTINGS: dict[str, dict[str, object]] = {
    "queue": {"retry": ["2s"]},
    "intake": {"deadline": "3s"},
    "delivery": {"reply_timeout": "1s", "body_timeout": "1s", "final_timeout": "5s"},
    "storage": {"master_user": None, "master_password_file": None},
}


@pytest.fixture(scope="module")
def peers() -> dict[str, ScriptedLmtpPeer]:
    """store1 follows the script of each test; the others are good."""
    return {f"store{number}": ScriptedLmtpPeer() for number in (1, 2, 3)}


@pytest.fixture(scope="module")
def cluster(peers: dict[str, ScriptedLmtpPeer]) -> Iterator[FaultCluster]:
    """A front end in front of the scripted nodes."""
    with FaultCluster.of_peers(peers, settings=SETTINGS) as running:
        yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """For one mailbox at store1: what it does at a step, and what comes of it.

    `row` is the state of the queue's row, or ""; `hint` of the handoff row, or "".
    """

    step: str
    action: Action
    reply: str
    row: str = ""
    hint: str = ""
    alarm: str = ""
    again: bool = False
    """Whether store1 gets the message a second time: its first copy may be there, and nobody can look."""


EXPECTATIONS = {
    "RCPT 4xx": Expectation(step="RCPT", action=Action(replies=("450 4.2.1 busy",)), reply="450 4.2.1 busy"),
    "RCPT 5xx": Expectation(step="RCPT", action=Action(replies=("550 5.7.1 not you",)), reply="550 5.7.1 not you"),
    "RCPT 5.1.1": Expectation(
        step="RCPT",
        action=Action(replies=("550 5.1.1 who?",)),
        reply="451 4.3.0 ",
        alarm="storage.unknown_at_node",
    ),
    "RCPT 421": Expectation(
        step="RCPT", action=Action(replies=("421 4.3.2 going down",), then="close"), reply="250 2.0.0", hint="stored"
    ),
    "RCPT close": Expectation(step="RCPT", action=Action(then="close"), reply="250 2.0.0", hint="stored"),
    "RCPT stall": Expectation(step="RCPT", action=Action(then="stall"), reply="250 2.0.0", hint="stored"),
    "RCPT garbage": Expectation(step="RCPT", action=Action(replies=("hello?",)), reply="250 2.0.0", hint="stored"),
    "DATA 4xx": Expectation(step="DATA", action=Action(replies=("451 4.3.0 disk",)), reply="250 2.0.0", hint="stored"),
    "DATA 5xx": Expectation(
        step="DATA",
        action=Action(replies=("554 5.3.4 never",)),
        reply="250 2.0.0",
        row="waiting",
        alarm="storage.refused_by.store1",
    ),
    "body close": Expectation(step="body", action=Action(then="close"), reply="250 2.0.0", row="unknown"),
    "dot 4xx": Expectation(step="dot", action=Action(replies=("452 4.2.2 full",)), reply="452 4.2.2 full"),
    "dot 5xx": Expectation(step="dot", action=Action(replies=("554 5.6.0 virus",)), reply="554 5.6.0 virus"),
    "dot close": Expectation(step="dot", action=Action(then="close"), reply="250 2.0.0", row="unknown", again=True),
    "dot reset": Expectation(step="dot", action=Action(then="reset"), reply="250 2.0.0", row="unknown", again=True),
    "dot garbage": Expectation(
        step="dot", action=Action(replies=("hello?",)), reply="250 2.0.0", row="unknown", again=True
    ),
    "dot stall": Expectation(step="dot", action=Action(then="stall"), reply="250 2.0.0", row="active", again=True),
}


@pytest.mark.parametrize("name", EXPECTATIONS)
def test_one_mailbox(cluster: FaultCluster, peers: dict[str, ScriptedLmtpPeer], name: str) -> None:
    """The client hears what the table says, the database keeps what the table says, and in the end it is at home."""
    expected = EXPECTATIONS[name]
    case, peer = cluster.case(), peers["store1"]
    letter = case.letter("store1")
    mailbox = letter.mailboxes[0]
    step = f"RCPT <{mailbox}>" if expected.step == "RCPT" else expected.step
    # On a connection that was used before, what breaks off before the dot is tried once more on a fresh one.
    peer.set_script({step: [expected.action] * 2 if breaks_before_the_dot(expected) else [expected.action]})
    assert case.send(letter).startswith(expected.reply)
    peer.set_script({})
    assert [row.state for row in case.rows()] == ([expected.row] if expected.row else [])
    assert [hint.state for hint in case.hints()] == ([expected.hint] if expected.hint else [])
    assert all(row.node == "store1" for row in case.rows() if expected.row in ("active", "unknown"))
    others = [node for node in ("store2", "store3") if any(t.accepted == [mailbox] for t in peers[node].received())]
    assert not others
    if expected.alarm:
        assert expected.alarm in {alarm["name"] for alarm in case.alarms()}
    if expected.row:
        case.settle(handed_off=False)
        report = case.check(name)
        assert (report.delivered, report.excused_duplicates) == (1, int(expected.again))
    elif expected.hint:
        assert case.check(name).handed_off == 1
    else:
        assert case.check(name).delivered == 0
    proves_well(cluster)


def breaks_before_the_dot(expected: Expectation) -> bool:
    """Whether an attempt on a used connection deserves a fresh one."""
    return expected.step == "RCPT" and expected.hint != "" and expected.action.then != "stall"


def proves_well(cluster: FaultCluster) -> None:
    """Good messages reach store1 again, whatever it did to the last ones.

    Not always the first one: each worker counts failures for itself, and the good messages between three of them may
    all have met the other worker. Then a probe has to bring the node back.
    """
    case = cluster.case()
    case.wait_until(lambda: case.send(case.letter("store1")).endswith("delivered"), "a delivery")


def test_fewer_replies_than_recipients(cluster: FaultCluster, peers: dict[str, ScriptedLmtpPeer]) -> None:
    """The mailboxes without a reply are of unknown outcome, the others are delivered."""
    case = cluster.case()
    letter = case.letter("store1", "store1", "store1")
    peers["store1"].set_script({"dot": [Action(replies=("250 2.0.0 stored",), then="close")]})
    assert case.send(letter).endswith("queued")
    assert {(row.mailbox, row.state) for row in case.rows()} == {(name, "unknown") for name in letter.mailboxes[1:]}
    case.settle()
    report = case.check("fewer replies")
    assert case.copies(letter) == dict(zip(letter.mailboxes, (1, 2, 2), strict=True))
    assert report.excused_duplicates == 2
    proves_well(cluster)


def test_more_replies_than_recipients(cluster: FaultCluster, peers: dict[str, ScriptedLmtpPeer]) -> None:
    """All are delivered, and the connection that is out of step is never used again."""
    case = cluster.case()
    peer = peers["store1"]
    letter = case.letter("store1", "store1")
    peer.set_script({"dot": [Action(replies=("250 2.0.0 stored",) * 4)]})
    assert case.send(letter).endswith("delivered")
    spoiled = peer.received()[-1].connection
    for _ in range(4):
        assert case.send(case.letter("store1")).endswith("delivered")
    assert spoiled not in {transaction.connection for transaction in peer.received()[-4:]}
    assert case.check("more replies").delivered == 6


@pytest.mark.parametrize(
    ("replies", "says", "rows"),
    [
        (("550 5.7.1 no", ""), "250 2.0.0", []),
        (("450 4.2.1 later", ""), "250 2.0.0", ["waiting"]),
        (("550 5.7.1 no", "450 4.2.1 later"), "250 2.0.0", ["waiting"]),
        (("550 5.7.1 no", "554 5.7.0 never"), "550 5.7.1 no", []),
        (("450 4.2.1 later", "452 4.2.2 full"), "450 4.2.1 later", []),
    ],
)
def test_two_mailboxes_at_two_nodes(
    cluster: FaultCluster,
    peers: dict[str, ScriptedLmtpPeer],
    replies: tuple[str, str],
    says: str,
    rows: list[str],
) -> None:
    """The fold: all failed or all deferred is said to the client; everything else is accepted and kept."""
    case = cluster.case()
    letter = case.letter("store1", "store2")
    for node, mailbox, said in zip(("store1", "store2"), letter.mailboxes, replies, strict=True):
        peers[node].set_script({f"RCPT <{mailbox}>": [Action(replies=(said,))] if said else []})
    assert case.send(letter).startswith(says)
    assert sorted(row.state for row in case.rows()) == rows
    assert not case.hints()
    # Who is refused while the message as a whole is accepted, the sender hears of by a notice; of others not.
    refused = [f"{name}@" for name, said in zip(letter.mailboxes, replies, strict=True) if said[:1] == "5"]
    told = [event["about"] for event in cluster.server.events("notice")]
    told = [
        about for about in told if any(address.startswith(f"{name}@") for name in letter.mailboxes for address in about)
    ]
    assert len(told) == (1 if refused and says.startswith("250") else 0)
    assert all(address.startswith(refused[0]) for about in told for address in about)
    delivered = [said == "" for said in replies]
    assert list(case.copies(letter).values()) == [int(was) for was in delivered]
    waiting = rows.count("waiting")
    case.wait_until(lambda: not case.rows(), "the retry")
    assert sum(case.copies(letter).values()) == sum(delivered) + waiting


@pytest.mark.parametrize("step", ["connect", "LHLO", "MAIL"])
def test_a_node_that_fails_before_any_mailbox(
    cluster: FaultCluster, peers: dict[str, ScriptedLmtpPeer], step: str
) -> None:
    """Its mail is handed off, its probes fail too, and a good probe brings it back."""
    case = cluster.case()
    peer = peers["store1"]
    peer.set_script({step: Action(replies=("451 4.3.2 not now",), then="close")})
    peer.drop_connections()
    letter = case.letter("store1")
    assert case.send(letter).endswith("queued")
    assert [hint.state for hint in case.hints()] == ["stored"]
    assert case.check(f"fails at {step}").handed_off == 1
    peer.set_script({})

    def is_back() -> bool:
        letter = case.letter("store1")
        return case.send(letter).endswith("delivered")

    case.wait_until(is_back, "the node's return", 60.0)
    case.check(f"fails at {step}, back")
