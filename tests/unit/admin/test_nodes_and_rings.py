"""Node and ring verbs over a real registry."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailfront.admin.audit import Audit
from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.lookups import DirectoryService
from mailfront.admin.nodes import NodeService
from mailfront.admin.rings import LookingOnly, RecipientPolicy, RingService, looking
from mailfront.base.clock import ManualClock
from mailfront.cluster.node_states import AdminState, Service
from mailfront.cluster.registry import PlacementRegistry
from mailfront.cluster.settings import NodeSettings
from mailfront.directory.answers import Answer, CannotSay, DirectoryRecord, Found, Member, NoSuch, Source, Status
from mailfront.mail.address import Address
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.queue.rows import HandoffState
from mailfront.store.audit_rows import latest_audits
from mailfront.store.writer import Store
from tests.support.queue_rows import open_store

A, B = NodeId("a"), NodeId("b")
NODES = [NodeSettings.model_validate({"id": name, "host": f"{name}.example.edu"}) for name in ("a", "b", "c")]
LOCAL = frozenset({"example.edu"})


def record(local: str, **values: Any) -> DirectoryRecord:
    """A record of `local@example.edu`."""
    key = MailboxKey(f"{local}@example.edu")
    return DirectoryRecord(key=key, mailbox=local, address=Address(local, "example.edu"), **values)


class FakeDirectory:
    """Knows what it was told."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {
            "ana": Found(record("ana"), Source.CACHE, 12.0),
            "postmaster": Found(record("postmaster"), Source.LDAP),
            "gone": Found(record("gone", status=Status.SUSPENDED), Source.LDAP),
            "placed": Found(record("placed", host="b"), Source.LDAP),
            "lost": Found(record("lost", host="nowhere"), Source.LDAP),
            "later": CannotSay("no server answers"),
        }

    async def member(self, member: Member) -> Answer:
        return await self.recipient(member) if isinstance(member, Address) else NoSuch(Source.LDAP)

    async def recipient(self, address: Address) -> Answer:
        """See `RecipientDirectory`."""
        return self.answers.get(address.local, NoSuch(Source.LDAP))


@dataclass
class Bench:
    """The services and what is behind them."""

    store: Store
    registry: PlacementRegistry
    nodes: NodeService
    ring: RingService
    directory: DirectoryService


async def open_bench(tmp_path: Path, *, first_placements: bool = False) -> Bench:
    """Services over a new database."""
    clock = ManualClock()
    store = open_store(tmp_path, clock)
    registry = await PlacementRegistry.open(
        store, clock, cluster="example", nodes=NODES, first_placements=first_placements
    )

    async def handoffs() -> Mapping[tuple[NodeId, NodeId, HandoffState], int]:
        return {(A, B, HandoffState.STORED): 3, (A, B, HandoffState.DONE): 9}

    directory = FakeDirectory()
    policy = RecipientPolicy(
        local_domains=LOCAL,
        postmaster=Address("postmaster", "example.edu"),
        node_user="{mailbox}@{domain}",
        handoff_mailbox=Address("handoff", "example.edu"),
        secondaries_count=1,
    )
    return Bench(
        store,
        registry,
        NodeService(registry, lambda: NODES, handoffs, Audit(store)),
        RingService(directory, registry, policy),
        DirectoryService(directory, looking(directory, LookingOnly(registry.map), policy), local_domains=LOCAL),
    )


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Three nodes, all well."""
    opened = await open_bench(tmp_path)
    yield opened
    await opened.store.close()


async def test_nodes_are_listed_with_their_share_and_their_handoffs(bench: Bench) -> None:
    """Buckets add up; only copies that still wait are counted, on both sides."""
    rows = {row.id: row for row in await bench.nodes.list()}
    assert list(rows) == ["a", "b", "c"]
    assert sum(row.buckets_count for row in rows.values()) == 4096
    assert {row.state for row in rows.values()} == {"up"}
    assert (rows[A].held_for_others_count, rows[B].waiting_for_it_count) == (3, 3)


async def test_a_node_that_is_not_well_says_why(bench: Bench) -> None:
    """The state is one word, the reason is beside it."""
    bench.registry.states.connect_failed(A, Service.LMTP, 1000.0, "connection refused")
    row = next(row for row in await bench.nodes.list() if row.id == "a")
    assert (row.state, row.imap) == ("suspect", "up")
    assert "connection refused" in row.reason


async def test_the_administrators_word_is_kept_and_audited(bench: Bench) -> None:
    """drain, maintenance and activate change the admin state durably, with the uid in the audit."""
    await bench.nodes.change("maintenance", "a", reason="new disks", uid=7)
    assert bench.registry.states.admin_state(A) is AdminState.MAINTENANCE
    assert next(row.state for row in await bench.nodes.list() if row.id == "a") == "maintenance"
    await bench.nodes.change("activate", "a", reason="", uid=7)
    assert bench.registry.states.admin_state(A) is AdminState.ACTIVE
    rows = await bench.store.read(lambda connection: latest_audits(connection, 5))
    assert [(row.verb, row.selector, row.reason, row.uid) for row in rows] == [
        ("node activate", "a", "", 7),
        ("node maintenance", "a", "new disks", 7),
    ]


async def test_an_unknown_node_is_refused_before_the_audit(bench: Bench) -> None:
    """The line names the nodes that there are."""
    with pytest.raises(AdminError, match="there are a, b, c"):
        await bench.nodes.change("drain", "d", reason="", uid=7)
    assert await bench.store.read(lambda connection: latest_audits(connection, 5)) == []


async def test_the_ring_shows_what_is_and_what_would_be(bench: Bench) -> None:
    """A new cluster owns what it would be given."""
    ring = await bench.ring.show()
    assert (ring.buckets_count, ring.differing_count) == (4096, 0)
    assert [share.buckets_count == share.desired_count for share in ring.nodes] == [True] * 3


async def test_an_address_is_explained(bench: Bench) -> None:
    """Home, reason and secondaries agree with the map; a message now is delivered home."""
    explained = await bench.ring.explain("Ana+lists@example.edu")
    assert explained.directory is not None
    assert explained.directory.answer == "no such address"
    explained = await bench.ring.explain("<ana@example.edu>")
    placement = bench.registry.map.place(MailboxKey("ana@example.edu"))
    assert (explained.home, explained.bucket) == (placement.home, placement.bucket)
    assert explained.secondaries == placement.secondaries
    assert explained.node_user == "ana@example.edu"
    assert explained.reason == f"bucket {placement.bucket} is assigned to {placement.home}"
    assert (explained.now, explained.now_at) == ("deliver", placement.home)
    assert explained.directory is not None
    assert (explained.directory.source, explained.directory.age_s) == ("cache", 12.0)


async def test_explaining_tells_where_mail_goes_while_the_home_is_down(bench: Bench) -> None:
    """The first secondary that may hold takes it."""
    home = bench.registry.map.place(MailboxKey("ana@example.edu")).home
    bench.registry.states.connect_failed(home, Service.LMTP, 1000.0, "refused")
    explained = await bench.ring.explain("ana@example.edu")
    assert (explained.home, explained.now) == (home, "handoff")
    assert explained.now_at == explained.secondaries[0]


@pytest.mark.parametrize(
    ("address", "reply"),
    [
        ("nobody@example.edu", "550 5.1.1"),
        ("gone@example.edu", "550 5.2.1"),
        ("later@example.edu", "451 4.4.3"),
        ("ana@example.org", "550 5.7.1"),
        ("handoff@example.edu", "550 5.1.1"),
    ],
)
async def test_a_refused_address_is_explained_by_its_reply(bench: Bench, address: str, reply: str) -> None:
    """What RCPT would say is what the explanation says."""
    explained = await bench.ring.explain(address)
    assert (explained.accepted, explained.home) == (False, None)
    assert explained.reply.startswith(reply)


async def test_explaining_places_nobody(tmp_path: Path) -> None:
    """With a host attribute the answer is where the first message would go; nothing is pinned by asking."""
    bench = await open_bench(tmp_path, first_placements=True)
    explained = await bench.ring.explain("placed@example.edu")
    assert (explained.home, explained.now_at) == (B, B)
    assert "not placed yet" in explained.reason
    assert bench.registry.map.pins == {}
    lost = await bench.ring.explain("lost@example.edu")
    assert lost.reply.startswith("451 ")
    await bench.store.close()


async def test_directory_answers_are_told_apart(bench: Bench) -> None:
    """found, no such address, cannot say; and what is not ours is not asked."""
    assert (await bench.directory.lookup("ana@example.edu")).answer == "found"
    assert (await bench.directory.lookup("nobody@example.edu")).answer == "no such address"
    unsure = await bench.directory.lookup("later@example.edu")
    assert (unsure.answer, unsure.reason) == ("cannot say", "no server answers")
    with pytest.raises(AdminError, match="not in domains"):
        await bench.directory.lookup("ana@example.org")
    with pytest.raises(AdminError) as caught:
        await bench.directory.lookup("no address\n")
    assert caught.value.kind is Kind.USAGE
