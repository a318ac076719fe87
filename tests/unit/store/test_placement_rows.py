"""Placement rows: what is saved is what is loaded, and each change raises the version."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailfront.base.clock import SystemClock
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.store import placement_rows as rows
from mailfront.store.writer import Store

_A, _B = NodeId("a"), NodeId("b")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/state.db", SystemClock(), free_space_bytes=0)
    yield opened
    await opened.close()


async def test_owners(store: Store) -> None:
    """Owners are stored per bucket; a later save changes only the buckets that it names."""
    assert await store.read(rows.load_owners) == {}
    assert await store.read(rows.load_map_version) == 0
    assert await store.write(lambda c: rows.save_owners(c, dict.fromkeys(range(4096), _A))) == 1
    assert await store.write(lambda c: rows.save_owners(c, {7: _B})) == 2
    owners = await store.read(rows.load_owners)
    assert len(owners) == 4096
    assert (owners[6], owners[7]) == (_A, _B)
    assert await store.read(rows.load_map_version) == 2


async def test_pins(store: Store) -> None:
    """A pin can name a node or say "by bucket"; the first placement is kept against later ones."""
    ana = rows.PinRow(mailbox_key=MailboxKey("ana"), node=_A, source="directory", made_s=1.0)
    bob = rows.PinRow(mailbox_key=MailboxKey("bob"), node=None, source="directory", made_s=2.0)
    await store.write(lambda c: rows.save_pins(c, [ana, bob]))
    assert await store.read(rows.load_pins) == {ana.mailbox_key: ana, bob.mailbox_key: bob}
    later = rows.PinRow(mailbox_key=MailboxKey("ana"), node=_B, source="directory", made_s=3.0)
    assert await store.write(lambda c: rows.save_first_pin(c, later)) == ana
    eve = rows.PinRow(mailbox_key=MailboxKey("eve"), node=_B, source="directory", made_s=3.0)
    assert await store.write(lambda c: rows.save_first_pin(c, eve)) == eve
    await store.write(lambda c: rows.delete_pins(c, [ana.mailbox_key]))
    assert set(await store.read(rows.load_pins)) == {"bob", "eve"}
    assert await store.read(rows.load_map_version) == 3


async def test_node_states(store: Store) -> None:
    """A node's last state per protocol is kept until it is overwritten or forgotten."""
    up = rows.NodeStateRow(node=_A, protocol="lmtp", state="up", reason="", since_s=1.0)
    drained = rows.NodeStateRow(node=_A, protocol="admin", state="draining", reason="disk swap", since_s=2.0)
    down = rows.NodeStateRow(node=_A, protocol="lmtp", state="down", reason="connect refused", since_s=3.0)
    await store.write(lambda c: rows.save_node_states(c, [up, drained]))
    await store.write(lambda c: rows.save_node_states(c, [down]))
    assert await store.read(rows.load_node_states) == [drained, down]
    await store.write(lambda c: rows.delete_node_states(c, _A))
    assert await store.read(rows.load_node_states) == []
