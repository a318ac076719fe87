"""What tests of the filter chain need: messages to look at, and chains made from tables."""

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from mailfront.base.clock import SystemClock
from mailfront.base.ids import new_message_id
from mailfront.filters.chain import Chain, Surroundings, build_chain
from mailfront.filters.contract import Finding, Message, Recipient, Stage
from mailfront.filters.registry import AnyFilterSettings
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody
from mailfront.mail.client import ClientInfo

_TABLES: TypeAdapter[Any] = TypeAdapter(tuple[AnyFilterSettings, ...])


def view(
    data: bytes, *recipients: str, ip: str = "192.0.2.1", classes: Mapping[str, tuple[str, ...]] | None = None
) -> Message:
    """A message at stage `data`."""
    head, _, _ = data.partition(b"\r\n\r\n")
    names = recipients or ("ana@example.edu",)
    return Message(
        id=new_message_id(1_700_000_000.0),
        client=ClientInfo(ip=ip, port=25, helo="client.example.org", protocol="ESMTP"),
        reverse_path=Address("ann", "example.org"),
        recipients=tuple(Recipient(address=address_of(name), classes=(classes or {}).get(name, ())) for name in names),
        header_bytes=head + b"\r\n",
        body=MemoryBody(data),
        arrived_s=1_700_000_000.0,
        hostname="mx1.example.edu",
    )


def address_of(text: str) -> Address:
    """An address from its text."""
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def chain_of(*tables: Mapping[str, object], **surroundings: Any) -> Chain:
    """A chain from `[[filter]]` tables. Call it inside the loop."""
    filters = _TABLES.validate_python([{"name": str(table["kind"]), **table} for table in tables])
    return build_chain(filters, Surroundings(hostname="mx1.example.edu", clock=SystemClock(), **surroundings))


async def asked(chain: Chain, message: Message, *, deadline_s: float | None = None) -> Sequence[Finding]:
    """Start a chain, ask it once about a message, and close it."""
    await chain.start()
    try:
        limit_s = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s
        answer = chain.ask(Stage.DATA, message, limit_s)
        return await answer if inspect.isawaitable(answer) else answer
    finally:
        await chain.close()


async def finding_of(message: Message, **table: object) -> Finding:
    """What one filter finds."""
    (finding,) = await asked(chain_of(table), message)
    return finding
