"""Connections to a node: reuse, slots, idle trouble, reloads and the end."""

import asyncio
from dataclasses import replace

import pytest

from mailfront.delivery.settings import DeliverySettings
from mailfront.delivery.transaction import Delivery
from mailfront.mail.names import NodeId
from mailfront.mail.outcome import Blame, Deferred, Delivered, Unknown
from tests.support.delivery import (
    BODY,
    NODE,
    RecordingSink,
    delivery_to,
    endpoint_of,
    message,
    on_each_loop,
    quick,
)
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer

PATIENT = quick(reply_timeout="10s", final_timeout="20s", body_timeout="10s")


async def deliver(delivery: Delivery, count: int = 1) -> None:
    """Deliver messages one after the other; all must arrive."""
    for _ in range(count):
        (outcome,) = await delivery.start(NODE, message(), slot_wait_s=1.0).result()
        assert isinstance(outcome, Delivered), outcome


async def until(condition: object, limit_s: float = 5.0) -> None:
    """Let the loop run until `condition()` is true."""
    async with asyncio.timeout(limit_s):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


@on_each_loop
async def test_a_connection_is_reused_without_rset() -> None:
    """Messages follow each other on one connection, without RSET or NOOP between them."""
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        await deliver(delivery, 3)
        await delivery.close()
        await until(lambda: "QUIT" in peer.verbs())
        assert peer.connections == 1
        assert peer.verbs() == ["LHLO", *["MAIL", "RCPT", "DATA"] * 3, "QUIT"]
        assert [transaction.body for transaction in peer.received()] == [BODY] * 3


@on_each_loop
async def test_rset_after_a_refused_recipient() -> None:
    """A transaction that ended before its dot is reset before the next one, on the same connection."""
    with ScriptedLmtpPeer({"RCPT": [Action(replies=("550 5.7.1 no",))]}) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        await delivery.start(NODE, message(), slot_wait_s=1.0).result()
        await deliver(delivery)
        await delivery.close()
        assert peer.verbs(1)[:8] == ["LHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize("said", [("421 4.3.2 idle too long",), ("250 2.0.0 what?",), ("x",)])
@on_each_loop
async def test_bytes_on_an_idle_connection(said: tuple[str, ...]) -> None:
    """A connection that says anything while it is idle is dropped, and the next message gets a fresh one."""
    with ScriptedLmtpPeer({"idle": [Action(delay_s=0.05, replies=said)]}) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        await deliver(delivery)
        await until(lambda: delivery.idle_count(NODE) == 0)
        await deliver(delivery)
        await delivery.close()
        assert peer.connections == 2


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "body"])
@pytest.mark.parametrize("then", ["close", "reset"])
@on_each_loop
async def test_a_pooled_connection_that_breaks_gets_one_fresh_try(stage: str, then: str) -> None:
    """Lost before the dot on a reused connection: once more, on a fresh one, and no evidence against the node."""
    body = b"x" * 8_000_000 + b"\r\n"
    with ScriptedLmtpPeer() as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint), sink, settings=PATIENT)
        await deliver(delivery)
        peer.set_script({stage: [Action(then=then)]})  # type: ignore[arg-type]
        (outcome,) = await delivery.start(NODE, message(body=body), slot_wait_s=1.0).result()
        assert isinstance(outcome, Delivered)
        assert peer.connections == 2
        assert set(sink.kinds) == {"succeeded"}
        await delivery.close()


@on_each_loop
async def test_the_fresh_try_is_the_last_one() -> None:
    """If the fresh connection breaks too, the node is to blame."""
    with ScriptedLmtpPeer() as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint), sink)
        await deliver(delivery)
        peer.set_script({"MAIL": Action(then="close")})
        (outcome,) = await delivery.start(NODE, message(), slot_wait_s=1.0).result()
        assert isinstance(outcome, Deferred)
        assert peer.connections == 2
        assert sink.kinds == ["succeeded", "message_failed"]
        await delivery.close()


@on_each_loop
async def test_a_loss_after_the_dot_is_never_tried_again() -> None:
    """Past the dot there is no second try, reused connection or not."""
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        await deliver(delivery)
        peer.set_script({"dot": Action(then="close")})
        (outcome,) = await delivery.start(NODE, message(), slot_wait_s=1.0).result()
        assert isinstance(outcome, Unknown)
        assert (peer.connections, len(peer.received())) == (1, 2)
        await delivery.close()


@on_each_loop
async def test_a_node_that_restarted_while_idle() -> None:
    """A pooled connection whose end has not been noticed yet costs one fresh try, not the message."""
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        await deliver(delivery)
        peer.drop_connections()
        await deliver(delivery)
        await delivery.close()


@on_each_loop
async def test_a_hung_node_never_holds_more_than_its_slots() -> None:
    """Beyond the node's connections an attempt waits its time and ends; it never opens one more."""
    with ScriptedLmtpPeer({"RCPT": Action(then="stall")}) as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint, lmtp_connections=2), sink, settings=PATIENT)
        hanging = [delivery.start(NODE, message(), slot_wait_s=1.0) for _ in range(2)]
        waiting = [delivery.start(NODE, message(), slot_wait_s=0.1) for _ in range(20)]
        for attempt in waiting:
            (outcome,) = await attempt.result()
            assert isinstance(outcome, Deferred)
            assert outcome.blame is Blame.NODE
            assert attempt.had_no_slot
        assert peer.connections == 2
        assert sink.kinds == []
        assert all(attempt.abort("enough") for attempt in hanging)
        await delivery.close()


@on_each_loop
async def test_a_hung_node_costs_the_others_nothing() -> None:
    """While one node hangs, another one's mail goes on."""
    other = NodeId("store2")
    with ScriptedLmtpPeer({"connect": Action(then="stall")}) as hung, ScriptedLmtpPeer() as good:
        nodes = {NODE: endpoint_of(hung.endpoint), other: endpoint_of(good.endpoint)}
        delivery = delivery_to(nodes, settings=PATIENT)
        for _ in range(10):
            delivery.start(NODE, message(), slot_wait_s=5.0)
        async with asyncio.timeout(2.0):
            (outcome,) = await delivery.start(other, message(), slot_wait_s=1.0).result()
        assert isinstance(outcome, Delivered)
        await delivery.close()


@on_each_loop
async def test_slots_are_passed_on_in_order() -> None:
    """Whoever waits longest gets the next connection, and all are served by it."""
    with ScriptedLmtpPeer({"dot": Action(delay_s=0.01, replies=("250 2.0.0 ok",))}) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint, lmtp_connections=1))
        attempts = [delivery.start(NODE, message(f"user{number}"), slot_wait_s=5.0) for number in range(8)]
        for attempt in attempts:
            (outcome,) = await attempt.result()
            assert isinstance(outcome, Delivered)
        assert peer.connections == 1
        assert [transaction.recipients for transaction in peer.received()] == [[f"user{number}"] for number in range(8)]
        await delivery.close()


@on_each_loop
async def test_a_waiter_that_gives_up_loses_no_slot() -> None:
    """After waiters were stopped or timed out, every slot can be used again."""
    with ScriptedLmtpPeer({"dot": [Action(delay_s=0.2, replies=("250 2.0.0 ok",))]}) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint, lmtp_connections=1))
        first = delivery.start(NODE, message(), slot_wait_s=1.0)
        await until(lambda: delivery.busy_count(NODE) == 1)
        stopped, late = (delivery.start(NODE, message(), slot_wait_s=wait_s) for wait_s in (5.0, 0.05))
        await asyncio.sleep(0)
        assert stopped.abort("not needed")
        await asyncio.gather(first.result(), stopped.result(), late.result())
        assert delivery.busy_count(NODE) == 0
        await deliver(delivery, 2)
        await delivery.close()


@pytest.mark.parametrize(
    ("settings", "verbs"),
    [
        (quick(connection_messages=1), ["LHLO", "MAIL", "RCPT", "DATA", "QUIT"]),
        (quick(connection_lifetime="1ms"), ["LHLO", "MAIL", "RCPT", "DATA", "QUIT"]),
        (quick(idle_timeout="50ms"), ["LHLO", "MAIL", "RCPT", "DATA", "QUIT"]),
    ],
    ids=["messages", "lifetime", "idle"],
)
@on_each_loop
async def test_a_connection_ends_politely(settings: DeliverySettings, verbs: list[str]) -> None:
    """Enough messages, too old, or unused: QUIT, and the next message opens another connection."""
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=settings)
        await deliver(delivery)
        await until(lambda: delivery.idle_count(NODE) == 0 and "QUIT" in peer.verbs(1))
        await deliver(delivery)
        assert peer.verbs(1) == verbs
        assert peer.connections == 2
        await delivery.close()


@on_each_loop
async def test_a_reload_keeps_what_did_not_change() -> None:
    """The same endpoint keeps its connections; a changed one gets new ones; a node that is gone takes no mail."""
    with ScriptedLmtpPeer() as peer, ScriptedLmtpPeer() as moved:
        endpoint = endpoint_of(peer.endpoint)
        delivery = delivery_to(endpoint)
        await deliver(delivery)
        delivery.set_nodes({NODE: replace(endpoint)})
        await deliver(delivery)
        assert peer.connections == 1
        delivery.set_nodes({NODE: endpoint_of(moved.endpoint)})
        await until(lambda: "QUIT" in peer.verbs())
        await deliver(delivery)
        assert len(moved.received()) == 1
        delivery.set_nodes({})
        (outcome,) = await delivery.start(NODE, message(), slot_wait_s=1.0).result()
        assert isinstance(outcome, Deferred)
        await delivery.close()


@on_each_loop
async def test_an_attempt_outlives_a_reload() -> None:
    """What was running when the node was moved ends where it began."""
    with ScriptedLmtpPeer({"dot": Action(delay_s=0.2)}) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=PATIENT)
        attempt = delivery.start(NODE, message(), slot_wait_s=1.0)
        await until(lambda: len(peer.received()) == 1)
        delivery.set_nodes({})
        (outcome,) = await attempt.result()
        assert isinstance(outcome, Delivered)
        await until(lambda: peer.verbs()[-1] == "QUIT")
        await delivery.close()


@on_each_loop
async def test_close_waits_for_what_is_dotted_and_stops_the_rest() -> None:
    """At the end: before the dot stopped, past the dot waited for, and dropped as unknown only after the grace."""
    script = {"dot": [Action(delay_s=0.2, replies=("250 2.0.0 ok",)), Action(then="stall")]}
    with ScriptedLmtpPeer(script) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=PATIENT)
        quickly = delivery.start(NODE, message("ana"), slot_wait_s=1.0)
        await until(lambda: len(peer.received()) == 1)
        never = delivery.start(NODE, message("bo"), slot_wait_s=1.0)
        await until(lambda: len(peer.received()) == 2)
        peer.set_script({"MAIL": Action(then="stall")})
        undotted = delivery.start(NODE, message("cy"), slot_wait_s=1.0)
        await until(lambda: peer.connections == 3)
        assert delivery.open_count == 3
        await delivery.close(grace_s=0.5)
        assert isinstance((await quickly.result())[0], Delivered)
        assert isinstance((await never.result())[0], Unknown)
        assert isinstance((await undotted.result())[0], Deferred)
        assert delivery.open_count == 0
