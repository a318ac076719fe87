"""Fill a queue with very many rows, fast: for measurements of size, not of accepting."""

from typing import Any

from sqlalchemy import insert

from mailfront.base.ids import MessageId
from mailfront.store import schema
from mailfront.store.writer import Connection, Store

ROWS_PER_WRITE = 10_000
USERS_COUNT = 55_000


def filler_id(number: int) -> MessageId:
    """The id of filler message `number`: before every real id."""
    return MessageId(f"0{number:015d}")


async def fill_queue(store: Store, count: int, *, start: int = 0, due_s: float = 60.0) -> None:
    """Write `count` messages with one waiting recipient each, arrived over the last five days.

    They fall due over one hour, of which `due_s` seconds are over. One in a thousand is held. Bodies are left out.
    """
    now_s = store.clock.wall_s()
    for first in range(start, start + count, ROWS_PER_WRITE):
        numbers = range(first, min(first + ROWS_PER_WRITE, start + count))
        messages = [_message(number, now_s) for number in numbers]
        recipients = [_recipient(number, now_s, due_s) for number in numbers]

        def operation(
            connection: Connection,
            messages: list[dict[str, Any]] = messages,
            recipients: list[dict[str, Any]] = recipients,
        ) -> None:
            connection.execute(insert(schema.message), messages)
            connection.execute(insert(schema.recipient), recipients)

        await store.write(operation)


def _arrived_s(number: int, now_s: float) -> float:
    return now_s - (number * 7919) % 432_000


def _message(number: int, now_s: float) -> dict[str, Any]:
    return {
        "id": filler_id(number),
        "state": "queued",
        "reverse_path": f"sender{number % 5000}@out{number % 50}.example",
        "sender_domain": f"out{number % 50}.example",
        "sender_local": f"sender{number % 5000}",
        "arrived_s": _arrived_s(number, now_s),
        "expires_s": now_s + 432_000.0,
        "changed_s": now_s,
        "size_bytes": 30_000,
        "body_type": "7BIT",
        "smtputf8": False,
        "ret": None,
        "envid": None,
        "client_ip": "192.0.2.1",
        "sha256": "",
    }


def _recipient(number: int, now_s: float, due_s: float) -> dict[str, Any]:
    user = (number * 31) % USERS_COUNT
    return {
        "message_id": filler_id(number),
        "number": 0,
        "address": f"user{user}@example.edu",
        "domain": "example.edu" if user % 10 else "staff.example.edu",
        "local_key": f"user{user}",
        "mailbox_key": f"user{user}",
        "bucket": user % 4096,
        "node_user": f"user{user}",
        "notify": None,
        "orcpt": None,
        "state": "held" if number % 1000 == 999 else "waiting",
        "arrived_s": _arrived_s(number, now_s),
        "next_attempt_s": now_s + (number * 104_729) % 3600 - due_s,
        "attempts": 3,
        "tried_s": now_s - 600.0,
        "blame": "node",
        "last_reply": "451 4.4.1 connection refused by the storage node",
        "reason": "",
        "node": None,
        "lease_owner": None,
        "lease_until_s": None,
    }
