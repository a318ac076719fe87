"""A node that accepts connections and never answers: a real Dovecot that is stopped by a signal, and a scripted peer.

Speed is only compared within one run, and generously: what is looked for is waiting, which is seconds.
"""

from collections.abc import Callable, Iterator
from itertools import cycle
from statistics import median

import pytest

from tests.support.fault_cluster import Case, FaultCluster
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer
from tests.support.processes import wait_until
from tests.support.senders import Letter, Stream

pytestmark = pytest.mark.serial
DEADLINE_S = 3.0
SETTINGS = {"intake": {"deadline": f"{DEADLINE_S:g}s"}, "delivery": {"reply_timeout": "2s", "body_timeout": "2s"}}
LETTERS = 150


@pytest.fixture(scope="module")
def dovecots() -> Iterator[FaultCluster]:
    """Three real nodes, with nothing in between."""
    with FaultCluster.of_dovecots(3, settings=SETTINGS, with_proxies=False) as running:
        yield running


def stream_to(case: Case, *nodes: str, clients: int) -> Stream:
    """Letters to ten people at each of these nodes."""
    people = cycle([case.cluster.fresh_mailbox(node) for _ in range(10) for node in nodes])

    def next_letter() -> Letter:
        return case.letter_to(next(people), size_bytes=2000)

    return Stream(case.cluster.server.smtp, next_letter, clients=clients)


def with_a_hung_node(cluster: FaultCluster, case: Case, hang: Callable[[], None]) -> tuple[list[Letter], list[Letter]]:
    """Mail to all nodes, first with all of them well, then with store1 hanging. Returns the letters to the others
    before and after that moment. Asserts what holds for both kinds of hanging."""
    with stream_to(case, "store2", "store3", clients=4) as others, stream_to(case, "store1", clients=4) as its_own:
        wait_until(lambda: others.answered_count >= LETTERS, 60.0, "the replies before")
        before = list(others.letters[:LETTERS])
        hang()
        seen_count, own_count = len(others.letters), its_own.answered_count
        wait_until(lambda: others.answered_count >= seen_count + LETTERS, 60.0, "the replies of the other nodes")
        after = list(others.letters[seen_count : seen_count + LETTERS])
        wait_until(lambda: its_own.answered_count >= own_count + 60, 60.0, "replies for the node that hangs")
        late = list(its_own.letters[own_count + 30 : own_count + 60])
    assert all(letter.acknowledged and len(letter.tries) == 1 for letter in case.letters)
    # Its own mail waits until the first attempts have shown how it is, then no longer.
    assert median(letter.last.took_s for letter in late) < DEADLINE_S / 3
    return before, after


def assert_same_speed(before: list[Letter], after: list[Letter]) -> None:
    """Nobody waited for the node that hangs."""
    typical_s = median(letter.last.took_s for letter in before)
    print(f"typical reply of the other nodes: {typical_s:.4f} s, beside a hanging node {typical(after):.4f} s")
    assert typical(after) < 3 * typical_s
    assert max(letter.last.took_s for letter in after) < DEADLINE_S


def typical(letters: list[Letter]) -> float:
    """The median time to the reply, in seconds."""
    return median(letter.last.took_s for letter in letters)


def test_a_dovecot_that_hangs(dovecots: FaultCluster) -> None:
    """The others keep their speed, its mail is handed off or queued, and comes home when it goes on."""
    case = dovecots.case()
    before, after = with_a_hung_node(dovecots, case, dovecots.dovecot("store1").hang)
    assert_same_speed(before, after)
    away = case.check("a node hangs")
    assert away.handed_off > 0
    dovecots.dovecot("store1").resume()
    case.settle(60.0)
    report = case.check("a node hung, goes on")
    assert (report.delivered, report.excused_duplicates) == (report.sent, 0)


def test_a_peer_that_accepts_and_says_nothing() -> None:
    """The same for a node whose connections are taken and never greeted."""
    peers = {f"store{number}": ScriptedLmtpPeer() for number in (1, 2, 3)}
    with FaultCluster.of_peers(peers, settings=SETTINGS) as cluster:
        case = cluster.case()

        def hang() -> None:
            peers["store1"].set_script({"connect": Action(then="stall")})
            peers["store1"].drop_connections()

        before, after = with_a_hung_node(cluster, case, hang)
        assert_same_speed(before, after)
        assert case.check("a peer says nothing").handed_off > 0
        peers["store1"].set_script({})
        peers["store1"].release()
        case.settle(handed_off=False)
        case.check("a peer said nothing, goes on")
