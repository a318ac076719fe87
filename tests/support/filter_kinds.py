"""What tests of filter kinds need: a context without a chain around it, and messages."""

from collections.abc import Sequence
from typing import Any

from mailfront.base.clock import Clock, SystemClock
from mailfront.base.ids import new_message_id
from mailfront.filters.breaker import Breaker
from mailfront.filters.contract import FilterContext, Message, Recipient
from mailfront.filters.hosts import Hosts
from mailfront.mail.address import Address, parse_path
from mailfront.mail.body import MemoryBody
from mailfront.mail.client import ClientInfo


def context(
    *, clock: Clock | None = None, timeout_s: float = 30.0, services: dict[str, Any] | None = None, name: str = "test"
) -> FilterContext:
    """What the chain would give a filter."""
    clock = clock or SystemClock()
    return FilterContext(
        name=name,
        hostname="mx.example.test",
        clock=clock,
        timeout_s=timeout_s,
        hosts=lambda addresses: Hosts([Breaker(each) for each in addresses], clock, timeout_s),
        local_domains=frozenset({"example.test"}),
        services=services or {},
    )


def address(text: str) -> Address:
    found = parse_path(text)
    assert found is not None, text
    return found


def message(
    body: bytes,
    *,
    ip: str = "192.0.2.1",
    helo: str = "client.example.org",
    sender: str = "sender@example.org",
    recipients: Sequence[str] = ("ana@example.test",),
    tls: str = "",
) -> Message:
    """A message at stage `data`; LF becomes CRLF."""
    body = body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    head, found, _ = body.partition(b"\r\n\r\n")
    return Message(
        id=new_message_id(1_700_000_000.0),
        client=ClientInfo(ip=ip, port=4321, helo=helo, protocol="ESMTP", tls=tls, listener="smtp"),
        reverse_path=address(sender) if sender else None,
        recipients=tuple(Recipient(address=address(each)) for each in recipients),
        header_bytes=head + b"\r\n" if found else body,
        body=MemoryBody(body),
        arrived_s=1_700_000_000.0,
        hostname="mx.example.test",
    )
