"""A `Delivery` for tests: short time-outs, a sink that records evidence, messages made in one line."""

import asyncio
import inspect
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal

import pytest
import uvloop

from mailfront.base.ids import MessageId
from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.delivery.settings import DeliverySettings
from mailfront.delivery.transaction import Delivery, LmtpRecipient, LmtpTransaction
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef, MemoryBody
from mailfront.mail.envelope import NO_OPTIONS, BodyType, RecipientOptions
from mailfront.mail.names import NodeId
from tests.support.processes import Endpoint

NODE = NodeId("store1")
BODY = b"Subject: test\r\n\r\nHello\r\n.\r\n..dots\r\n"
MESSAGE_ID = MessageId("0123456789abcdef")


def quick(**more: object) -> DeliverySettings:
    """Settings with time-outs that a test can wait for; more of them as they are written in the file."""
    times = {"connect_timeout": "500ms", "reply_timeout": "300ms", "body_timeout": "300ms", "final_timeout": "400ms"}
    return DeliverySettings.model_validate({**times, **more})


QUICK = quick()


class RecordingSink:
    """An EvidenceSink that remembers: a list of (kind, detail)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    @property
    def kinds(self) -> list[str]:
        """What was told, without the details."""
        return [kind for kind, _ in self.seen]

    def connect_failed(self, node: NodeId, text: str) -> None:
        """See `EvidenceSink`."""
        self.seen.append(("connect_failed", text))

    def message_failed(self, node: NodeId, message: MessageId, text: str) -> None:
        """See `EvidenceSink`."""
        self.seen.append(("message_failed", text))

    def unknown_user(self, node: NodeId, node_user: str) -> None:
        """See `EvidenceSink`."""
        self.seen.append(("unknown_user", node_user))

    def succeeded(self, node: NodeId) -> None:
        """See `EvidenceSink`."""
        self.seen.append(("succeeded", ""))

    def alarm(self, node: NodeId, message: MessageId, text: str) -> None:
        """See `EvidenceSink`."""
        self.seen.append(("alarm", text))


def endpoint_of(
    where: Endpoint,
    *,
    tls: Literal["off", "starttls", "implicit"] = "off",
    server_name: str = "",
    lmtp_connections: int = 4,
) -> NodeEndpoint:
    """The NodeEndpoint of a server that listens there."""
    if isinstance(where, tuple):
        host, port = where
        return NodeEndpoint(host=host, port=port, tls=tls, server_name=server_name, lmtp_connections=lmtp_connections)
    return NodeEndpoint(path=str(where), lmtp_connections=lmtp_connections)


def delivery_to(
    nodes: NodeEndpoint | Mapping[NodeId, NodeEndpoint],
    sink: RecordingSink | None = None,
    *,
    settings: DeliverySettings = QUICK,
    tls_context: ssl.SSLContext | None = None,
) -> Delivery:
    """A Delivery to one node, which is called NODE, or to several."""
    return Delivery(
        {NODE: nodes} if isinstance(nodes, NodeEndpoint) else nodes,
        client_name="mx.example.edu",
        settings=settings,
        tls_context=tls_context,
        evidence=sink or RecordingSink(),
    )


def message(
    *users: str,
    body: BodyRef | bytes = BODY,
    reverse_path: Address | None = Address("sender", "example.org"),  # noqa: B008
    body_type: BodyType = BodyType.SEVENBIT,
    options: RecipientOptions = NO_OPTIONS,
    smtputf8: bool = False,
    dsn: Sequence[str | None] = (None, None),
) -> LmtpTransaction:
    """A message for these node users ("ana" if there are none)."""
    return LmtpTransaction(
        id=MESSAGE_ID,
        reverse_path=reverse_path,
        body_type=body_type,
        smtputf8=smtputf8,
        ret=dsn[0],
        envid=dsn[1],
        recipients=tuple(LmtpRecipient(user, options) for user in users or ("ana",)),
        body=MemoryBody(body) if isinstance(body, bytes) else body,
    )


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on asyncio's loop and on uvloop: their transports differ."""

    def run(*bound: object, new_loop: Callable[[], asyncio.AbstractEventLoop], **arguments: object) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(*bound, **arguments))

    own = inspect.signature(test)
    loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), loop])  # type: ignore[attr-defined]
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.__dict__.update(test.__dict__)
    loops = pytest.mark.parametrize(
        "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    return loops(run)
