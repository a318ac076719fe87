"""The table of node states: what traffic may do, and how keeper and workers share what they know."""

import json

from mailfront.base.ids import MessageId
from mailfront.cluster.node_states import AdminState, Health, Service
from mailfront.cluster.node_table import NodeStateTable, StateChange
from mailfront.mail.names import MailboxKey, NodeId

A, B = NodeId("a"), NodeId("b")
LMTP = Service.LMTP


def share(keeper: NodeStateTable, worker: NodeStateTable, now_s: float) -> None:
    worker.adopt(json.loads(json.dumps(keeper.as_push())), now_s)


def test_all_is_well_at_first() -> None:
    """Without evidence a configured node is up, may be used and may hold; an unknown one is not."""
    table = NodeStateTable([A])
    assert table.is_up(A, LMTP)
    assert table.admit(A, LMTP, 0.0)
    assert table.may_hold(A)
    assert not table.is_up(B, LMTP)
    assert not table.admit(B, LMTP, 0.0)


def test_admin_states() -> None:
    """Draining serves its own and holds nothing for others; maintenance does neither."""
    table = NodeStateTable([A])
    table.set_admin_state(A, AdminState.DRAINING)
    assert (table.is_up(A, LMTP), table.admit(A, LMTP, 0.0), table.may_hold(A)) == (True, True, False)
    table.set_admin_state(A, AdminState.MAINTENANCE)
    assert (table.is_up(A, LMTP), table.admit(A, LMTP, 99.0), table.may_hold(A)) == (False, False, False)
    table.set_admin_state(A, AdminState.ACTIVE)
    assert table.may_hold(A)


def test_bad_handoff_account_costs_no_delivery() -> None:
    """A node whose handoff account fails still serves its own mailboxes."""
    table = NodeStateTable([A])
    table.probe_failed(A, Service.HANDOFF, 1.0, "550 5.1.1 unknown")
    assert table.admit(A, LMTP, 1.0)
    assert not table.may_hold(A)


def test_changes_are_told_once() -> None:
    """Each change of health is told with its reason; repeated evidence is not."""
    changes: list[StateChange] = []
    table = NodeStateTable([A], changes.append)
    table.connect_failed(A, LMTP, 1.0, "refused")
    table.connect_failed(A, LMTP, 2.0, "refused")
    table.probe_failed(A, LMTP, 3.0, "refused")
    table.succeeded(A, LMTP, 4.0)
    table.succeeded(A, LMTP, 5.0)
    assert [(change.before, change.after) for change in changes] == [
        (Health.UP, Health.SUSPECT),
        (Health.SUSPECT, Health.DOWN),
        (Health.DOWN, Health.UP),
    ]
    assert changes[0].reason == "cannot connect: refused"


def test_messages_and_mailboxes_testify() -> None:
    """Three failed messages, or three unknown mailboxes, make a node SUSPECT."""
    table = NodeStateTable([A, B])
    for number in range(3):
        table.message_failed(A, MessageId(f"m{number}"), float(number), "451 4.3.0 disk")
        table.unknown_at_node(B, MailboxKey(f"k{number}"), float(number))
    assert table.state(A, LMTP).health is table.state(B, LMTP).health is Health.SUSPECT
    assert "disk" in table.state(A, LMTP).reason


def test_worker_alone_tries_every_five_seconds() -> None:
    """What only this worker suspects gets one trial per 5 s, and a good one ends it."""
    worker = NodeStateTable([A])
    worker.connect_failed(A, LMTP, 100.0, "refused")
    assert [second for second in range(100, 117) if worker.admit(A, LMTP, float(second))] == [105, 110, 115]
    worker.succeeded(A, LMTP, 116.0)
    assert worker.admit(A, LMTP, 116.0)


def test_unconfirmed_suspicion_is_tried_although_the_keeper_lives() -> None:
    """A keeper that is there but does not share the suspicion leaves the trial to the worker."""
    keeper, worker = NodeStateTable([A]), NodeStateTable([A])
    worker.connect_failed(A, LMTP, 100.0, "refused")
    share(keeper, worker, 104.0)
    assert not worker.admit(A, LMTP, 104.5)
    assert worker.admit(A, LMTP, 105.5)


def test_no_trials_while_the_keeper_probes() -> None:
    """A node that the keeper calls DOWN is left to its prober, unless the keeper falls silent."""
    keeper, worker = NodeStateTable([A]), NodeStateTable([A])
    keeper.probe_failed(A, LMTP, 100.0, "x")
    keeper.probe_failed(A, LMTP, 101.0, "x")
    share(keeper, worker, 102.0)
    assert worker.state(A, LMTP).health is Health.DOWN
    tried = [second for second in range(102, 130) if worker.admit(A, LMTP, float(second))]
    assert tried == [117, 122, 127]


def test_proof_must_be_newer_than_suspicion() -> None:
    """A worker's SUSPECT outlives a push whose last proof is older, and yields to a newer one."""
    keeper, worker = NodeStateTable([A]), NodeStateTable([A])
    keeper.probe_ok(A, LMTP, 99.0, 98.0)
    worker.connect_failed(A, LMTP, 100.0, "refused")
    share(keeper, worker, 101.0)
    assert worker.state(A, LMTP).health is Health.SUSPECT
    keeper.suspected_by_worker(A, LMTP, 101.0, "refused")
    assert keeper.state(A, LMTP).health is Health.SUSPECT
    keeper.probe_ok(A, LMTP, 102.1, 102.0)
    share(keeper, worker, 103.0)
    assert worker.is_up(A, LMTP)


def test_new_keeper_does_not_call_all_well() -> None:
    """After a keeper's restart its empty table lifts nothing that workers know; its first proof does."""
    keeper, worker = NodeStateTable([A]), NodeStateTable([A])
    keeper.probe_failed(A, LMTP, 100.0, "x")
    keeper.probe_failed(A, LMTP, 101.0, "x")
    share(keeper, worker, 101.0)
    keeper = NodeStateTable([A])
    share(keeper, worker, 102.0)
    assert worker.state(A, LMTP).health is Health.DOWN
    keeper.probe_ok(A, LMTP, 103.0, 102.5)
    share(keeper, worker, 103.0)
    assert worker.is_up(A, LMTP)


def test_own_delivery_beats_an_older_push() -> None:
    """A worker that delivered after the keeper's verdict keeps using the node."""
    keeper, worker = NodeStateTable([A]), NodeStateTable([A])
    keeper.probe_failed(A, LMTP, 100.0, "x")
    share(keeper, worker, 100.0)
    worker.succeeded(A, LMTP, 101.0)
    share(keeper, worker, 102.0)
    assert worker.is_up(A, LMTP)


def test_admin_state_travels() -> None:
    """A push carries the administrator's word, also when it is withdrawn."""
    keeper, worker = NodeStateTable([A]), NodeStateTable([A])
    keeper.set_admin_state(A, AdminState.MAINTENANCE)
    share(keeper, worker, 1.0)
    assert worker.admin_state(A) is AdminState.MAINTENANCE
    keeper.set_admin_state(A, AdminState.ACTIVE)
    share(keeper, worker, 2.0)
    assert worker.admin_state(A) is AdminState.ACTIVE


def test_reload_forgets_and_learns_nodes() -> None:
    """A node that is gone is forgotten, a new one is well, the others keep their state."""
    table = NodeStateTable([A, B])
    table.connect_failed(A, LMTP, 1.0, "x")
    table.connect_failed(B, LMTP, 1.0, "x")
    table.set_nodes([B, NodeId("c")])
    assert not table.is_up(A, LMTP)
    assert table.state(B, LMTP).health is Health.SUSPECT
    assert table.is_up(NodeId("c"), LMTP)
    table.connect_failed(A, LMTP, 2.0, "x")
    assert not table.is_up(A, LMTP)
