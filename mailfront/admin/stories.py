"""Which events tell of one message, though they carry several ids. Pure: events in, stories out.

A client that was told 451 sends the message again, and gets another id for it; a notice about a message has an id of
its own. They belong to one story:

- messages with the same sender, the same Message-ID (or, without one, the same bytes) and a recipient in common;
- a notice and what it is about;
- a transaction that ended before its data, because its recipients were deferred, with a later message of the same
  sender to one of them. Nothing but the envelope was seen of it, so this is a guess, and said to be one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
Identity = tuple[str, str, str]


@dataclass(slots=True)
class Story:
    """One message from the client's point of view. `events` in the order of time."""

    ids: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For people and programs. `tries` is how often the client offered it; `result` is what it was told last."""
        offered = [event for event in self.events if event.get("event") == "message"]
        last = offered[-1] if offered else {}
        return {
            "ids": self.ids,
            "guessed": self.guessed,
            "sender": next((event["reverse_path"] for event in self.events if "reverse_path" in event), None),
            "recipients": sorted({name for event in self.events for name in recipients_of(event)}),
            "message_id": next((event["message_id"] for event in offered if event.get("message_id")), ""),
            "tries": len(offered),
            "result": last.get("result", ""),
            "events": self.events,
        }


def recipients_of(event: Event) -> set[str]:
    """The addresses that an event is about, folded."""
    names = [event.get("recipient")] if event.get("event") != "notice" else list(event.get("about") or [])
    for each in event.get("recipients") or []:
        names.append(each.get("address") if isinstance(each, dict) else each)
    return {name.casefold() for name in names if isinstance(name, str)}


def sender_of(event: Event) -> str:
    """The sender of a message, folded."""
    return str(event.get("reverse_path") or "").casefold()


def identity_of(event: Event) -> Identity | None:
    """What a message is recognised by when its client sends it again; None if nothing was seen of it."""
    if event.get("event") != "message":
        return None
    for name in ("message_id", "sha256"):
        if value := event.get(name):
            return sender_of(event), name, str(value)
    return None


def is_early_refusal(event: Event) -> bool:
    """Whether it was told to come again before its data."""
    return event.get("event") == "message" and event.get("result") == "deferred" and identity_of(event) is None


def same_message(one: Event, other: Event) -> bool:
    """Whether two `message` events are tries of one message."""
    mine = identity_of(one)
    return mine is not None and mine == identity_of(other) and bool(recipients_of(one) & recipients_of(other))


def stories(events: Iterable[Event]) -> list[Story]:
    """Sort events into stories, in the order in which they begin. Events without an id tell of no message."""
    events = sorted(events, key=lambda event: str(event.get("time", "")))
    by_id: dict[str, list[Event]] = {}
    for event in events:
        if id_ := event.get("id"):
            by_id.setdefault(str(id_), []).append(event)
    groups = _Groups(by_id)
    tries = [event for event in events if identity_of(event) is not None and event.get("id")]
    by_identity: dict[Identity | None, list[Event]] = {}
    for event in tries:
        for earlier in by_identity.setdefault(identity_of(event), []):
            if same_message(earlier, event):
                groups.join(str(earlier["id"]), str(event["id"]))
        by_identity[identity_of(event)].append(event)
    for event in events:
        if event.get("notice") and event["notice"] in by_id:
            groups.join(str(event["id"]), str(event["notice"]))
    guessed = _guess(events, tries, groups)
    told: dict[str, Story] = {}
    for id_, of_id in by_id.items():
        story = told.setdefault(groups.first(id_), Story())
        story.ids.append(id_)
        story.events += of_id
        if id_ in guessed:
            story.guessed.append(id_)
    for story in told.values():
        story.events.sort(key=lambda event: str(event.get("time", "")))
    return list(told.values())


def _guess(events: Sequence[Event], tries: Sequence[Event], groups: "_Groups") -> set[str]:
    guessed = set()
    for event in filter(is_early_refusal, events):
        for later in tries:
            is_later = str(later.get("time", "")) > str(event.get("time", ""))
            if is_later and sender_of(later) == sender_of(event) and recipients_of(later) & recipients_of(event):
                groups.join(str(later["id"]), str(event["id"]))
                guessed.add(str(event["id"]))
                break
    return guessed


class _Groups:
    """Ids that belong together."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._parent = {id_: id_ for id_ in ids}

    def first(self, id_: str) -> str:
        """The id that stands for all that belong to this one."""
        while self._parent[id_] != id_:
            self._parent[id_] = self._parent[self._parent[id_]]
            id_ = self._parent[id_]
        return id_

    def join(self, one: str, other: str) -> None:
        """These two belong together."""
        self._parent[self.first(other)] = self.first(one)
