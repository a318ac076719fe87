"""One message, several ids: which events are told together."""

import random
from pathlib import Path
from typing import Any

import orjson

from mailfront.admin.stories import stories
from mailfront.admin.traces import TraceService

A, B, C, N = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc", "nnnnnnnnnnnnnnnn"


def offered(id_: str, time: str, result: str, *, sender: str = "x@out.example", to: str = "ana@example.edu",
            **more: Any) -> dict[str, Any]:  # fmt: skip
    """One `message` event."""
    return {"event": "message", "id": id_, "time": time, "result": result, "reverse_path": sender,
            "recipients": [{"address": to}], **more}  # fmt: skip


TRIED_TWICE = [
    offered(A, "1", "deferred", message_id="<m@x>"),
    offered(B, "3", "queued", message_id="<m@x>", to="ANA@example.edu"),
    {"event": "delivery", "id": B, "time": "4", "outcome": "failed", "recipients": [{"address": "ana@example.edu"}]},
    {"event": "notice", "id": B, "time": "5", "notice": N, "recipient": "x@out.example", "about": ["ana@example.edu"]},
    {"event": "delivery", "id": N, "time": "6", "outcome": "delivered", "recipients": [{"address": "x@out.example"}]},
]


def test_a_retried_message_and_its_notice_are_one_story() -> None:
    """Whatever the order in which the events are found; the last answer counts."""
    events = TRIED_TWICE[:]
    random.Random(1).shuffle(events)
    (story,) = stories(events)
    told = story.as_json()
    assert (told["ids"], told["tries"], told["result"]) == ([A, B, N], 2, "queued")
    assert (told["sender"], told["message_id"]) == ("x@out.example", "<m@x>")
    assert [event["time"] for event in story.events] == ["1", "3", "4", "5", "6"]


def test_without_a_message_id_the_bytes_decide() -> None:
    """The same hash from the same sender is the same message."""
    assert len(stories([offered(A, "1", "deferred", sha256="ab"), offered(B, "2", "delivered", sha256="ab")])) == 1
    assert len(stories([offered(A, "1", "deferred", sha256="ab"), offered(B, "2", "delivered", sha256="cd")])) == 2


def test_one_message_to_different_people_is_not_joined() -> None:
    """Another recipient or another sender with the same Message-ID is another story."""
    first = offered(A, "1", "delivered", message_id="<m@x>")
    assert len(stories([first, offered(B, "2", "delivered", message_id="<m@x>", to="ben@example.edu")])) == 2
    assert len(stories([first, offered(B, "2", "delivered", message_id="<m@x>", sender="y@out.example")])) == 2
    assert len(stories([first, offered(B, "2", "delivered", message_id="<n@x>")])) == 2


def test_what_ended_before_its_data_is_joined_as_a_guess() -> None:
    """Only the envelope was seen: the next message of that sender to that recipient is perhaps the same."""
    early = offered(A, "1", "deferred", reason="recipients refused")
    (story,) = stories([early, offered(B, "2", "delivered", message_id="<m@x>")])
    assert (story.ids, story.guessed) == ([A, B], [A])
    assert len(stories([early, offered(B, "0", "delivered", message_id="<m@x>")])) == 2
    refused = offered(A, "1", "rejected", reason="recipients refused")
    assert len(stories([refused, offered(B, "2", "delivered", message_id="<m@x>")])) == 2


def write(folder: Path, *events: dict[str, Any]) -> Path:
    """A segment with these events."""
    folder.mkdir()
    (folder / "2026-03-01T14.worker-0.jsonl").write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    return folder


async def test_any_id_of_the_story_leads_to_all_of_it(tmp_path: Path) -> None:
    """The first try, the second, and the notice: each tells the whole, with the rows of all of them."""
    other = offered(C, "2", "delivered", message_id="<other@x>")
    folder = write(tmp_path / "events", *TRIED_TWICE, other)

    async def find_message(id_: str) -> dict[str, Any] | None:
        return {"id": id_, "recipients": [{"id": id_}]} if id_ in (B, N) else None

    async def find_rows(_address: str) -> list[Any]:
        return [{"id": N}]

    trace = TraceService(folder, find_message, find_rows)
    for wanted in (A, B, N):
        found = await trace.show(wanted)
        assert {event["id"] for event in found["events"]} == {wanted}
        assert [story["ids"] for story in found["stories"]] == [[A, B, N]]
        assert sorted(row["id"] for row in found["rows"]) == [B, N]
    of_address = await trace.show("ana@example.edu")
    assert [story["ids"] for story in of_address["stories"]] == [[A, B], [C]]
    assert of_address["rows"] == [{"id": N}]
