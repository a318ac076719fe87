"""health, config show and trace."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from mailfront.admin.errors import AdminError
from mailfront.admin.running import ConfigService, HealthService, RunningConfiguration
from mailfront.admin.traces import TraceService
from mailfront.base.clock import ManualClock
from mailfront.cluster.move_requests import MoveRequest
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.observe.health import HealthTable, State

ID = "0123456789abcdef"


def write_events(folder: Path, *events: dict[str, Any]) -> None:
    """A segment with these events."""
    folder.mkdir()
    path = folder / "2026-03-01T14.worker-0.jsonl"
    path.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))


async def nothing_queued(_message_id: str) -> dict[str, Any] | None:
    """An empty queue."""
    return None


async def one_queued(message_id: str) -> dict[str, Any] | None:
    """A queue that knows every message."""
    return {"id": message_id, "recipients": []}


async def no_rows(_address: str) -> list[Any]:
    """Nothing of an address is queued."""
    return []


async def test_a_message_is_traced_through_events_and_queue(tmp_path: Path) -> None:
    """Both sources are shown; one is enough."""
    events = tmp_path / "events"
    write_events(events, {"time": "1", "event": "message", "id": ID}, {"time": "2", "event": "message", "id": "x" * 16})
    found = await TraceService(events, one_queued, no_rows).show(ID)
    assert [event["event"] for event in found["events"]] == ["message"]
    assert found["queue"] == {"id": ID, "recipients": []}
    assert (await TraceService(events, nothing_queued, no_rows).show(ID))["queue"] is None


async def test_an_address_is_traced_through_events(tmp_path: Path) -> None:
    """Without an id, the address helps."""
    events = tmp_path / "events"
    write_events(events, {"time": "1", "event": "message", "id": ID, "reverse_path": "ana@example.edu"})
    found = await TraceService(events, nothing_queued, no_rows).show("ana@example.edu")
    assert [event["id"] for event in found["events"]] == [ID]


@pytest.mark.parametrize("wanted", [ID, "../../etc/passwd", "nobody@example.edu"])
async def test_what_nobody_knows_is_an_error(tmp_path: Path, wanted: str) -> None:
    """An unknown id, no id at all, an unknown address."""
    with pytest.raises(AdminError):
        await TraceService(tmp_path / "events", nothing_queued, no_rows).show(wanted)


def test_health_tells_reasons_and_requests_to_move() -> None:
    """The document has the overall state; the public page leaves mailboxes out."""
    clock = ManualClock()
    table = HealthTable(clock)
    table.set("store", State.FAILED, "disk full")
    request = MoveRequest(key=MailboxKey("ana"), home=NodeId("a"), host="b", seen_s=clock.wall_s())
    service = HealthService(table, lambda: (request,), clock, version="0.1")
    clock.advance(10.0)
    document = service.show()
    assert (document["state"], document["uptime_s"], document["move_requests_count"]) == ("failed", 10.0, 1)
    assert document["reasons"] == ["store: disk full"]
    assert document["move_requests"][0]["key"] == "ana"
    state, public = service.for_http()
    assert state is State.FAILED
    assert "move_requests" not in public


def test_the_public_page_names_nobody() -> None:
    """Whoever reaches the page learns that something is wrong, and with what, but no address and no mailbox."""
    table = HealthTable(ManualClock())
    table.set("node.a", State.DEGRADED, "lmtp suspect: 450 4.1.8 <Ana.B@example.edu>: Sender address rejected")
    table.raise_alarm("storage.unknown_at_node", "a does not know ana, whom the directory knows; ana@example.edu")
    service = HealthService(table, lambda: (), ManualClock(), version="0.1")
    assert b"Ana.B@" in orjson.dumps(service.show())
    _, public = service.for_http()
    shown = orjson.dumps(public).lower()
    assert b"ana" not in shown
    assert b"storage.unknown_at_node" in shown
    assert b"node.a: lmtp suspect: 450 4.1.8 <***@example.edu>" in shown


def test_the_running_configuration_is_asked_anew() -> None:
    """A reload shows at once."""
    versions = iter([RunningConfiguration(path="/a", text=text, loaded_s=0.0) for text in ("old", "new")])
    service = ConfigService(lambda: next(versions))
    assert [service.show().text, service.show().text] == ["old", "new"]
