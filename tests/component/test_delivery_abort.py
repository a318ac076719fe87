"""Stopping an attempt before the final dot, not after it, and what must be written down before the dot."""

import asyncio
from collections.abc import Callable

import pytest

from mailfront.base.errors import Unavailable
from mailfront.delivery import attempt as attempt_module
from mailfront.delivery.transaction import Phase
from mailfront.mail.outcome import Blame, Deferred, Delivered, Outcome, Unknown
from tests.support.delivery import NODE, RecordingSink, delivery_to, endpoint_of, message, on_each_loop, quick
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer

PATIENT = quick(connect_timeout="10s", reply_timeout="10s", final_timeout="20s", body_timeout="10s")
LARGE_BODY = b"x" * 15_000_000 + b"\r\n"


async def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    """Let the loop run until `condition()` is true."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


def was_stopped(outcome: Outcome) -> bool:
    """Deferred by the node with our reason."""
    return isinstance(outcome, Deferred) and outcome.blame is Blame.NODE and "the deadline" in outcome.reply.text


@pytest.mark.parametrize(
    ("stage", "phase"),
    [
        ("connect", Phase.CONNECTING),
        ("LHLO", Phase.CONNECTING),
        ("MAIL", Phase.SENDING),
        ("DATA", Phase.SENDING),
        ("body", Phase.SENDING),
    ],
)
@on_each_loop
async def test_abort_before_the_dot(stage: str, phase: Phase) -> None:
    """Stopped anywhere before the dot: the result comes at once, no evidence yet, the slot is free, nothing arrived."""
    with ScriptedLmtpPeer({stage: Action(then="stall")}) as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint), sink, settings=PATIENT)
        attempt = delivery.start(NODE, message(body=LARGE_BODY), slot_wait_s=1.0)
        await until(lambda: peer.connections == 1 and attempt.phase is phase)
        assert attempt.abort("the deadline")
        async with asyncio.timeout(1.0):
            (outcome,) = await attempt.result()
        assert was_stopped(outcome)
        assert attempt.phase is Phase.DONE
        assert sink.kinds == []
        assert delivery.busy_count(NODE) == 0
        assert peer.received() == []
        await delivery.close()


@on_each_loop
async def test_abort_before_it_began() -> None:
    """An attempt that is stopped in the moment it was started never connects."""
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint))
        attempt = delivery.start(NODE, message(), slot_wait_s=1.0)
        assert attempt.abort("the deadline")
        assert was_stopped((await attempt.result())[0])
        assert peer.connections == 0
        await delivery.close()


@on_each_loop
async def test_abort_after_the_dot() -> None:
    """Past the dot abort says False, and the node's answer is still waited for."""
    with ScriptedLmtpPeer({"dot": Action(then="stall", replies=())}) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=PATIENT)
        attempt = delivery.start(NODE, message(), slot_wait_s=1.0)
        await until(lambda: len(peer.received()) == 1)
        assert attempt.phase is Phase.DOTTED
        assert not attempt.abort("the deadline")
        peer.drop_connections()
        assert isinstance((await attempt.result())[0], Unknown)
        assert attempt.abort("again"), "an attempt that has ended has its result at once"
        await delivery.close()


@on_each_loop
async def test_whoever_waits_may_go_away() -> None:
    """Cancelling the one who waits for the result does not touch the attempt."""
    with ScriptedLmtpPeer({"dot": Action(delay_s=0.2)}) as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=PATIENT)
        attempt = delivery.start(NODE, message(), slot_wait_s=1.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await attempt.result()
        assert isinstance((await attempt.result())[0], Delivered)
        await delivery.close()


@on_each_loop
async def test_a_node_that_kept_us_waiting_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that strikes while the node has been silent for long counts against the node."""
    monkeypatch.setattr(attempt_module, "BLAME_AFTER_S", 0.05)
    with ScriptedLmtpPeer({"MAIL": Action(then="stall")}) as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint), sink, settings=PATIENT)
        attempt = delivery.start(NODE, message(), slot_wait_s=1.0)
        started_s = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > started_s + 0.1)
        assert attempt.abort("the deadline")
        await attempt.result()
        assert sink.kinds == ["message_failed"]
        await delivery.close()


@on_each_loop
async def test_before_dot_comes_before_the_dot() -> None:
    """`before_dot` is awaited when the node has accepted the envelope and has not seen the end of the message."""
    seen: list[object] = []
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=PATIENT)

        async def before_dot() -> None:
            seen.append((peer.verbs()[-1], attempt.phase, len(peer.received())))

        for body in (b"small\r\n", LARGE_BODY):
            attempt = delivery.start(NODE, message(body=body), slot_wait_s=1.0, before_dot=before_dot)
            assert isinstance((await attempt.result())[0], Delivered)
        assert seen == [("DATA", Phase.SENDING, 0), ("DATA", Phase.SENDING, 1)]
        await delivery.close()


@pytest.mark.parametrize("error", [Unavailable("the keeper is away"), ValueError("a bug")])
@pytest.mark.parametrize("body", [b"small\r\n", LARGE_BODY], ids=["small", "large"])
@on_each_loop
async def test_before_dot_fails(error: Exception, body: bytes) -> None:
    """If what must come first fails, no dot is sent (the node has read all that was) and the node is not blamed."""

    async def before_dot() -> None:
        raise error

    with ScriptedLmtpPeer() as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint), sink, settings=PATIENT)
        attempt = delivery.start(NODE, message(body=body), slot_wait_s=1.0, before_dot=before_dot)
        (outcome,) = await attempt.result()
        assert isinstance(outcome, Deferred)
        assert "a bug" not in outcome.reply.text
        await until(lambda: delivery.busy_count(NODE) == 0)
        await until(lambda: peer.open_count == 0)
        assert (peer.received(), sink.kinds) == ([], [])
        await delivery.close()


@on_each_loop
async def test_abort_while_before_dot_runs() -> None:
    """Stopped while the commit is under way: the commit is cancelled or finished, and the dot is never sent."""
    begun = asyncio.Event()

    async def before_dot() -> None:
        begun.set()
        await asyncio.sleep(10)

    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=PATIENT)
        attempt = delivery.start(NODE, message(), slot_wait_s=1.0, before_dot=before_dot)
        await begun.wait()
        assert attempt.abort("the deadline")
        assert was_stopped((await attempt.result())[0])
        await until(lambda: peer.open_count == 0)
        assert peer.received() == []
        await delivery.close()


@on_each_loop
async def test_before_dot_has_a_limit() -> None:
    """A commit that never ends is given up after the body's time-out, without blaming the node."""

    async def before_dot() -> None:
        await asyncio.sleep(10)

    with ScriptedLmtpPeer() as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint), sink)
        attempt = delivery.start(NODE, message(), slot_wait_s=1.0, before_dot=before_dot)
        assert isinstance((await attempt.result())[0], Deferred)
        assert sink.kinds == []
        await delivery.close()


@on_each_loop
async def test_before_dot_is_awaited_once() -> None:
    """A second try on a fresh connection does not commit again."""
    calls: list[int] = []
    with ScriptedLmtpPeer() as peer:
        delivery = delivery_to(endpoint_of(peer.endpoint), settings=PATIENT)
        await delivery.start(NODE, message(), slot_wait_s=1.0).result()

        async def before_dot() -> None:
            calls.append(1)
            peer.drop_connections()
            connection = attempt._connection
            assert connection is not None
            await until(lambda: connection.trouble is not None)

        attempt = delivery.start(NODE, message(), slot_wait_s=1.0, before_dot=before_dot)
        assert isinstance((await attempt.result())[0], Delivered)
        assert len(calls) == 1
        assert peer.connections == 2
        await delivery.close()


@on_each_loop
async def test_a_body_that_cannot_be_read() -> None:
    """A broken spool file is our fault: deferred, and the node never sees an end of data."""

    class BrokenBody:
        size_bytes = 1_000_000

        def pieces(self) -> object:
            yield b"x" * 200_000
            raise OSError("no disk")

        def head(self, limit_bytes: int) -> bytes:
            return b""

    with ScriptedLmtpPeer() as peer:
        sink = RecordingSink()
        delivery = delivery_to(endpoint_of(peer.endpoint), sink)
        attempt = delivery.start(NODE, message(body=BrokenBody()), slot_wait_s=1.0)  # type: ignore[arg-type]
        assert isinstance((await attempt.result())[0], Deferred)
        assert (peer.received(), sink.kinds) == ([], [])
        await delivery.close()
