"""The keeper's registry over a real database: first assignment, first placements, refusals, restarts, pushes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.errors import ConfigError
from mailfront.cluster.hashing import plan_assignment
from mailfront.cluster.node_states import AdminState, Health, Service
from mailfront.cluster.placement import MapReceiver
from mailfront.cluster.registry import PlacementRegistry, UnknownNode
from mailfront.cluster.settings import NodeSettings
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.store import placement_rows
from mailfront.store.errors import StoreRefused
from mailfront.store.writer import Store

ANA, BEN = MailboxKey("ana"), MailboxKey("ben")


def nodes_of(*names: str, **values: Any) -> list[NodeSettings]:
    return [NodeSettings.model_validate({"id": name, "host": f"{name}.example.edu", **values}) for name in names]


THREE = nodes_of("a", "b", "c")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/state.db", clock, free_space_bytes=0)
    yield opened
    await opened.close()


async def open_registry(store: Store, clock: ManualClock, **values: Any) -> PlacementRegistry:
    arguments: dict[str, Any] = {"cluster": "example", "nodes": THREE, "first_placements": False} | values
    return await PlacementRegistry.open(store, clock, **arguments)


async def test_first_assignment_is_stored(store: Store, clock: ManualClock) -> None:
    """An empty database gets the plan, once; a new keeper reads the same map."""
    first = await open_registry(store, clock)
    assert first.map.owners == plan_assignment([node.as_node() for node in THREE], "example")
    again = await open_registry(store, clock)
    assert (again.map.owners, again.map.version) == (first.map.owners, first.map.version)
    assert first.map.version > 0


async def test_new_nodes_and_weights_move_nobody(store: Store, clock: ManualClock) -> None:
    """Editing nodes changes what would be assigned, not what is; `ring` shows both."""
    registry = await open_registry(store, clock)
    before = registry.map.owners
    ring = await registry.ring()
    assert ring.differing_count == 0
    four = [*nodes_of("a", "b", weight=300), *nodes_of("c", "d")]
    registry.check_nodes(four, "example", {})
    registry.change_nodes(four, first_placements=False)
    assert registry.map.owners == before
    assert registry.states.is_up(NodeId("d"), Service.LMTP)
    ring = await registry.ring()
    shares = {share.node.id: share for share in ring.shares}
    assert shares[NodeId("d")].buckets_count == 0
    assert 450 < shares[NodeId("d")].desired_count <= 523
    assert sum(share.desired_count for share in ring.shares) == 4096
    assert ring.differing_count > 900


async def test_node_that_owns_something_cannot_go(store: Store, clock: ManualClock) -> None:
    """Dropping an owner is refused with the counts, at a reload and at a start; an empty node may go."""
    registry = await open_registry(store, clock, first_placements=True)
    await registry.pin_first(ANA, "c")
    owned = registry.map.owners.count(NodeId("c"))
    with pytest.raises(ConfigError, match=f"'c'.*{owned} buckets, 1 pinned mailboxes"):
        registry.check_nodes(THREE[:2], "example", {})
    with pytest.raises(ConfigError, match=f"{owned} buckets"):
        await open_registry(store, clock, nodes=THREE[:2])
    registry.change_nodes(nodes_of("a", "b", "c", "d"), first_placements=True)
    registry.check_nodes(THREE, "example", {NodeId("d"): {"handed-off copies": 0}})
    with pytest.raises(ConfigError, match=r"'d'.*5 handed-off copies"):
        registry.check_nodes(THREE, "example", {NodeId("d"): {"handed-off copies": 5}})


async def test_cluster_keeps_its_name(store: Store, clock: ManualClock) -> None:
    """Another cluster name is refused: it would move every mailbox to another bucket."""
    registry = await open_registry(store, clock)
    with pytest.raises(ConfigError, match="was 'example' and is now 'other'"):
        registry.check_nodes(THREE, "other", {})
    with pytest.raises(ConfigError, match="put the old name back"):
        await open_registry(store, clock, cluster="other")


async def test_incomplete_map_is_refused(store: Store, clock: ManualClock) -> None:
    """A map with buckets missing is damage; owners are not guessed."""
    await store.write(lambda connection: placement_rows.save_owners(connection, {0: NodeId("a")}))
    with pytest.raises(StoreRefused, match="1 of 4096 buckets"):
        await open_registry(store, clock)


async def test_first_placement_is_kept(store: Store, clock: ManualClock) -> None:
    """The first host attribute pins, a later one does not; a mailbox without one follows its bucket for ever."""
    registry = await open_registry(store, clock, first_placements=True)
    assert registry.map.must_announce(ANA)
    assert await registry.pin_first(ANA, "B.example.edu") == "b"
    assert await registry.pin_first(ANA, "c") == "b"
    assert await registry.pin_first(BEN, None) is None
    assert await registry.pin_first(BEN, "a") is None
    again = await open_registry(store, clock, first_placements=True)
    for known in (registry, again):
        assert known.map.place(ANA).home == "b"
        assert not known.map.must_announce(ANA)
        assert not known.map.must_announce(BEN)
        assert known.map.pins == {ANA: "b", BEN: None}


async def test_unknown_host_is_an_error(store: Store, clock: ManualClock) -> None:
    """A host attribute that names no node places nothing."""
    registry = await open_registry(store, clock, first_placements=True)
    with pytest.raises(UnknownNode, match="nowhere"):
        await registry.pin_first(ANA, "nowhere")
    assert registry.map.must_announce(ANA)


async def test_shared_address_names_no_node(store: Store, clock: ManualClock) -> None:
    """Where several nodes have one address, only ids name them."""
    nodes = [NodeSettings.model_validate({"id": name, "host": "127.0.0.1"}) for name in ("a", "b")]
    registry = await open_registry(store, clock, nodes=nodes, first_placements=True)
    with pytest.raises(UnknownNode):
        await registry.pin_first(ANA, "127.0.0.1")
    assert await registry.pin_first(ANA, "a") == "a"


async def test_pushes(store: Store, clock: ManualClock) -> None:
    """A worker that gets the whole map once and every push after it always has the keeper's map."""
    registry = await open_registry(store, clock, first_placements=True)
    early, late = MapReceiver(), MapReceiver()
    for page in registry.take_push():
        assert early.receive(page)
    assert registry.take_push() == []
    await registry.pin_first(ANA, "a")
    for page in registry.full_push():
        assert late.receive(page)
    await registry.pin_first(BEN, None)
    for page in registry.take_push():
        assert early.receive(page)
        assert late.receive(page)
    for worker in (early, late):
        assert worker.require().pins == {ANA: "a", BEN: None}
        assert worker.require().version == registry.map.version
    registry.change_nodes(nodes_of("a", "b", "c", "d"), first_placements=False)
    for page in registry.take_push():
        assert early.receive(page)
    assert len(early.require().nodes) == 4
    assert early.require().pins == {ANA: "a", BEN: None}


async def test_node_states_survive_a_restart(store: Store, clock: ManualClock) -> None:
    """A new keeper does not trust a dead node, and remembers what the administrator said."""
    registry = await open_registry(store, clock)
    node = NodeId("a")
    registry.states.probe_failed(node, Service.LMTP, clock.monotonic_s(), "refused")
    registry.states.probe_failed(node, Service.LMTP, clock.monotonic_s(), "refused")
    await registry.remember_state(node, Service.LMTP)
    await registry.set_admin_state(NodeId("b"), AdminState.DRAINING, "new disks")
    clock.advance(60.0)
    again = await open_registry(store, clock)
    state = again.states.state(node, Service.LMTP)
    assert (state.health, state.reason) == (Health.DOWN, "probe failed: refused")
    assert clock.monotonic_s() - state.since_s == pytest.approx(60.0)
    assert again.states.admin_state(NodeId("b")) is AdminState.DRAINING
    again.states.probe_ok(node, Service.LMTP, clock.monotonic_s(), clock.monotonic_s())
    await again.remember_state(node, Service.LMTP)
    last = await open_registry(store, clock)
    assert last.states.is_up(node, Service.LMTP)


async def test_a_clock_that_went_back_does_not_keep_a_node_down(store: Store, clock: ManualClock) -> None:
    """A stored state from the future would make every probe count as older than it."""
    registry = await open_registry(store, clock)
    node = NodeId("a")
    registry.states.connect_failed(node, Service.LMTP, clock.monotonic_s(), "refused")
    await registry.remember_state(node, Service.LMTP)
    earlier = ManualClock(wall_s=clock.wall_s() - 3600)
    again = await open_registry(store, earlier)
    assert not again.states.is_up(node, Service.LMTP)
    began_s = earlier.monotonic_s()
    earlier.advance(1)
    again.states.probe_ok(node, Service.LMTP, earlier.monotonic_s(), began_s)
    assert again.states.is_up(node, Service.LMTP)


async def test_admin_state_needs_a_known_node(store: Store, clock: ManualClock) -> None:
    """A mistyped node is named together with those that exist."""
    registry = await open_registry(store, clock)
    with pytest.raises(UnknownNode, match="'aa'; there are a, b, c"):
        await registry.set_admin_state(NodeId("aa"), AdminState.MAINTENANCE, "")


async def test_states_of_gone_nodes_are_forgotten(store: Store, clock: ManualClock) -> None:
    """A node that was taken out and comes back later is not still in maintenance."""
    registry = await open_registry(store, clock)
    registry.change_nodes(nodes_of("a", "b", "c", "d"), first_placements=False)
    await registry.set_admin_state(NodeId("d"), AdminState.MAINTENANCE, "")
    await open_registry(store, clock)
    back = await open_registry(store, clock, nodes=nodes_of("a", "b", "c", "d"))
    assert back.states.admin_state(NodeId("d")) is AdminState.ACTIVE


async def test_what_mailbox_keys_are_made_of_never_changes(store: Store, clock: ManualClock) -> None:
    """Another attribute would give nearly every mailbox another home: the keeper does not start."""
    await open_registry(store, clock, mailbox_key="the attribute uid")
    await open_registry(store, clock, mailbox_key="the attribute uid")
    with pytest.raises(ConfigError, match="attribute uid and would now be made of the attribute mail"):
        await open_registry(store, clock, mailbox_key="the attribute mail")


async def test_the_host_attribute_comes_first_or_never(store: Store, clock: ManualClock) -> None:
    """Where mailboxes were placed without it, its first placements would be second ones. Leaving it is allowed."""
    await open_registry(store, clock, first_placements=True)
    await open_registry(store, clock, first_placements=False)
    with pytest.raises(ConfigError, match="placed without it"):
        await open_registry(store, clock, first_placements=True)
