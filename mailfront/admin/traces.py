"""`trace`: what became of a message, from its first offer to its delivery, over all the ids that it had.

Events are found by id through the index of each segment. To find the other tries of a client, and what was said of an
address, every segment is searched from end to end: some seconds where two gigabytes are kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from mailfront.admin.errors import AdminError
from mailfront.admin.stories import (
    Event,
    Story,
    identity_of,
    is_early_refusal,
    recipients_of,
    same_message,
    sender_of,
    stories,
)
from mailfront.base.ids import is_message_id
from mailfront.base.printable import printable
from mailfront.observe import event_files

FindMessage = Callable[[str], Awaitable[dict[str, Any] | None]]
"""What the queue knows of one message id: the message and its rows, or None. Raises Unavailable."""
FindRows = Callable[[str], Awaitable[Sequence[Any]]]
"""The queue's rows of which an address is sender or recipient, or a part of them. Raises Unavailable."""

MOST_IDS = 50
MOST_SEARCHED_RECIPIENTS = 3


class TraceService:
    """The life of one message, or of all messages of an address: its events, and its rows in the queue."""

    def __init__(self, events_dir: Path, find_message: FindMessage, find_rows: FindRows) -> None:
        self._events_dir = events_dir
        self._find_message = find_message
        self._find_rows = find_rows

    async def show(self, wanted: str) -> dict[str, Any]:
        """All that is known of a message id or an address. Raises AdminError if that is nothing.

        `events` are those of the id, or those that name the address; `stories` join all ids of a message; `queue` is
        the message in the queue, `rows` all rows of the stories, or of the address.
        """
        if "@" in wanted:
            return await self._address(wanted)
        if not is_message_id(wanted):
            raise AdminError(f"{printable(wanted, 80)!r} is not a message id; it is 16 letters and digits")
        events, others = await asyncio.to_thread(self._of_message, wanted)
        queued = await self._find_message(wanted)
        if not events and queued is None:
            raise _unknown(wanted)
        told = [story for story in stories([*events, *others]) if wanted in story.ids] or [Story(ids=[wanted])]
        rows = [] if queued is None else list(queued["recipients"])
        for id_ in told[0].ids:
            if id_ != wanted and (found := await self._find_message(id_)) is not None:
                rows += found["recipients"]
        return {
            "id": wanted,
            "events": events,
            "queue": queued,
            "rows": rows,
            "stories": [story.as_json() for story in told],
        }

    async def _address(self, wanted: str) -> dict[str, Any]:
        events = await asyncio.to_thread(event_files.find_address, self._events_dir, wanted)
        rows = await self._find_rows(wanted)
        if not events and not rows:
            raise _unknown(wanted)
        told = [story.as_json() for story in stories(events)]
        return {"id": wanted, "events": events, "queue": None, "rows": rows, "stories": told}

    def _of_message(self, wanted: str) -> tuple[list[Event], list[Event]]:
        """The events of an id, and those of other ids that may belong to its story."""
        events = event_files.find(self._events_dir, wanted)
        about = [] if any(event.get("event") == "message" for event in events) else self._value("notice", wanted)
        others = {str(event["id"]) for event in about if event.get("id")}
        offered = [event for event in [*events, *self._of_ids(others)] if event.get("event") == "message"]
        for event in offered:
            others |= self._other_tries(event)
        more = self._of_ids(others - {wanted})
        notices = {str(event["notice"]) for event in [*events, *more] if event.get("notice")}
        return events, [*more, *self._of_ids(notices - others - {wanted})]

    def _other_tries(self, event: Event) -> set[str]:
        identity = identity_of(event)
        if identity is None:
            candidates = self._named_by(event)
            tries = [each for each in candidates if identity_of(each) is not None and each["time"] > event["time"]]
        else:
            candidates = self._value(identity[1], identity[2])
            tries = [each for each in candidates if same_message(event, each)]
            early = [each for each in self._named_by(event) if is_early_refusal(each)]
            tries += [each for each in early if str(each.get("time", "")) < str(event.get("time", ""))]
        return {str(each["id"]) for each in tries[-MOST_IDS:] if each.get("id")}

    def _named_by(self, event: Event) -> list[Event]:
        """Other messages of the same sender to the first recipients of this one."""
        found: list[Event] = []
        for address in sorted(recipients_of(event))[:MOST_SEARCHED_RECIPIENTS]:
            found += event_files.find_address(self._events_dir, address)
        return [each for each in found if each.get("event") == "message" and sender_of(each) == sender_of(event)]

    def _value(self, field: str, value: str) -> list[Event]:
        return event_files.find_value(self._events_dir, field, value)

    def _of_ids(self, ids: set[str]) -> list[Event]:
        return [event for id_ in sorted(ids)[:MOST_IDS] for event in event_files.find(self._events_dir, id_)]


def _unknown(wanted: str) -> AdminError:
    return AdminError(f"nothing is known of {printable(wanted, 80)}: not queued, and no event names it")
