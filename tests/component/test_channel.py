"""The worker-keeper channel over real sockets and processes, on asyncio and on uvloop."""

import array
import asyncio
import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mailfront.base.errors import LocalProtocolError, Unavailable
from mailfront.base.tasks import spawn
from mailfront.net import channel as channel_module
from mailfront.net import channel_server as channel_server_module
from mailfront.net.channel import Channel, ChannelServer, Peer, Request, memory_file
from mailfront.net.frame_stream import FrameStream
from mailfront.net.frames import HEADER, FrameReader, encode_frame

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    """Each test runs on both loops."""
    return str(request.param)


@pytest.fixture
def run(loop_name: str) -> Run:
    """Runs a coroutine to its end, within 30 s."""

    def run_one(main: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if loop_name == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(main, 30))

    return run_one


class Keeper:
    """A keeper process that can be killed and started again."""

    def __init__(self, path: str, loop_name: str) -> None:
        self.path = path
        self._loop_name = loop_name
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/support/keeper_stub.py"), self.path, self._loop_name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it the hard way."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def keeper(tmp_path: Path, loop_name: str) -> Iterator[Keeper]:
    """A running keeper process."""
    running = Keeper(str(tmp_path / "keeper.sock"), loop_name)
    running.start()
    yield running
    running.kill()


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def connected(path: str, name: str = "worker-0") -> Channel:
    """A channel that is connected."""
    channel = Channel(path, name)
    channel.start()
    await channel.wait_connected(10)
    return channel


def test_requests_of_one_worker_run_together(keeper: Keeper, run: Run) -> None:
    """A slow request does not hold up the ones behind it, and each answer finds its request."""

    async def main() -> None:
        channel = await connected(keeper.path)
        slow = spawn(channel.request("slow", {"after_s": 0.5}, timeout_s=10), name="slow")
        payloads = [{"number": number, "text": "ä" * number} for number in range(200)]
        answers = await asyncio.gather(*(channel.request("echo", payload, timeout_s=10) for payload in payloads))
        assert answers == payloads
        assert not slow.done()
        await slow
        assert channel.outstanding_count == 0
        await channel.close()

    run(main())


def test_large_frames_go_both_ways(keeper: Keeper, run: Run) -> None:
    """A payload of several megabytes waits for the socket and arrives whole; a larger one is our own mistake."""

    async def main() -> None:
        channel = await connected(keeper.path)
        payload = {"text": "x" * 7_000_000}
        assert await channel.request("echo", payload, timeout_s=20) == payload
        with pytest.raises(LocalProtocolError, match="send a descriptor"):
            await channel.request("echo", {"text": "x" * 9_000_000}, timeout_s=20)
        assert await channel.request("echo", {}, timeout_s=10) == {}
        await channel.close()

    run(main())


def test_descriptors_arrive_with_their_own_request_and_are_closed_at_the_end(keeper: Keeper, run: Run) -> None:
    """Bodies travel as descriptors between processes, in any mixture with other frames; nobody leaks one."""

    async def main() -> None:
        channel = await connected(keeper.path)
        before = await channel.request("open_fds", {}, timeout_s=10)
        own_before = len(os.listdir("/proc/self/fd"))

        async def send(number: int) -> None:
            bodies = [f"body {number}.{part} ".encode() * (1 + number * 100) for part in range(1 + number % 4)]
            fds = tuple(memory_file([body[:7], body[7:]]) for body in bodies)
            try:
                pad = {"pad": "y" * (number * 1000 % 200_000)}
                answer = await channel.request("digest", pad, fds, timeout_s=20)
            finally:
                for fd in fds:
                    os.close(fd)
            wanted = bodies[: max(1, len(bodies) - 1)]
            assert answer["digests"] == [hashlib.sha256(body).hexdigest() for body in wanted]

        await asyncio.gather(*(send(number) for number in range(150)))
        assert await channel.request("open_fds", {}, timeout_s=10) == before
        assert len(os.listdir("/proc/self/fd")) == own_before
        with pytest.raises(Unavailable, match="descriptor 0 is missing"):
            await channel.request("digest", {}, timeout_s=10)
        await channel.close()

    run(main())


def test_refusals_bugs_and_unknown_verbs_are_unavailable_with_a_reason(keeper: Keeper, run: Run) -> None:
    """The worker learns the reason of a refusal in one printable line, and nothing of a bug's inside."""

    async def main() -> None:
        channel = await connected(keeper.path)
        with pytest.raises(Unavailable, match=r"^keeper: not today\?\?FAKE$"):
            await channel.request("refuse", {}, timeout_s=10)
        with pytest.raises(Unavailable, match=r"^keeper: internal error in boom$"):
            await channel.request("boom", {}, timeout_s=10)
        with pytest.raises(Unavailable, match="verb nonsense is unknown"):
            await channel.request("nonsense", {}, timeout_s=10)
        assert await channel.request("echo", {"still": "here"}, timeout_s=10) == {"still": "here"}
        await channel.close()

    run(main())


def test_a_keeper_that_is_too_slow_is_unavailable(keeper: Keeper, run: Run) -> None:
    """The time-out counts per request; a late answer disturbs nobody; a cancelled request is forgotten."""

    async def main() -> None:
        channel = await connected(keeper.path)
        with pytest.raises(Unavailable, match=r"no answer to slow within 0\.05 s"):
            await channel.request("slow", {"after_s": 0.2}, timeout_s=0.05)
        task = spawn(channel.request("never", {}, timeout_s=60), name="never")
        await until(lambda: channel.outstanding_count == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert channel.outstanding_count == 0
        await channel.request("slow", {"after_s": 0.3}, timeout_s=10)
        assert channel.outstanding_count == 0
        await channel.close()

    run(main())


def test_a_killed_keeper_fails_what_is_open_and_is_found_again(keeper: Keeper, run: Run) -> None:
    """kill -9: open requests are Unavailable at once, new ones too, and the restarted keeper is used by itself."""

    async def main() -> None:
        channel = Channel(keeper.path, "worker-0")
        connects: list[int] = []
        losses: list[str] = []
        channel.on_connected(lambda: connects.append(1))
        channel.on_lost(losses.append)
        channel.start()
        await channel.wait_connected(10)
        opens = [spawn(channel.request("never", {}, timeout_s=60), name="never") for _ in range(20)]
        await until(lambda: channel.outstanding_count == 20)
        keeper.kill()
        results = await asyncio.gather(*opens, return_exceptions=True)
        assert all(isinstance(result, Unavailable) and "connection lost" in str(result) for result in results)
        assert not channel.is_connected
        with pytest.raises(Unavailable, match="not connected"):
            await channel.request("echo", {}, timeout_s=10)
        with pytest.raises(Unavailable, match=r"no connection to .* within 0.1 s"):
            await channel.wait_connected(0.1)
        await asyncio.to_thread(keeper.start)
        await channel.wait_connected(10)
        assert await channel.request("echo", {"a": 1}, timeout_s=10) == {"a": 1}
        assert (len(connects), len(losses)) == (2, 1)
        await channel.close()

    run(main())


def test_a_stopped_keeper_bounds_what_waits(keeper: Keeper, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that hangs (SIGSTOP) costs time-outs and a bounded buffer, and goes on where it stopped."""
    monkeypatch.setattr(channel_module, "MAX_WAITING_BYTES", 1_000_000)
    monkeypatch.setattr(channel_module, "MAX_OUTSTANDING", 30)

    async def main() -> None:
        channel = await connected(keeper.path)
        fd = memory_file([b"body"])
        keeper.signal(signal.SIGSTOP)
        payload = {"pad": "z" * 100_000}
        requests = [channel.request("digest", payload, (fd, fd), timeout_s=0.5) for _ in range(25)]
        results = await asyncio.gather(*requests, return_exceptions=True)
        texts = [str(result) for result in results]
        assert any("does not take what we send" in text for text in texts)
        assert any("no answer to digest" in text for text in texts)
        small = [channel.request("echo", {}, timeout_s=0.2) for _ in range(40)]
        texts = [str(result) for result in await asyncio.gather(*small, return_exceptions=True)]
        assert sum("30 requests without an answer" in text for text in texts) == 10
        keeper.signal(signal.SIGCONT)
        os.close(fd)
        fd = memory_file([b"another body"])
        answer = await channel.request("digest", {}, (fd,), timeout_s=10)
        assert answer["digests"] == [hashlib.sha256(b"another body").hexdigest()]
        os.close(fd)
        await channel.close()

    run(main())


def test_pushes_reach_every_worker_and_the_kernel_says_who_asks(keeper: Keeper, run: Run) -> None:
    """A new worker gets its greeting, all get the news; pid and uid are the kernel's word."""

    async def main() -> None:
        seen: dict[str, list[Any]] = {"worker-0": [], "worker-1": []}
        channels = {}
        for name, pushed in seen.items():
            channel = Channel(keeper.path, name)
            channel.on_push("hello", pushed.append)
            channel.on_push("news", pushed.append)
            channel.start()
            await channel.wait_connected(10)
            channels[name] = channel
        await until(lambda: all(seen.values()))
        await channels["worker-1"].request("push", {"version": 7}, timeout_s=10)
        await until(lambda: all(len(pushed) == 2 for pushed in seen.values()))
        assert seen == {name: [{"name": name}, {"version": 7}] for name in seen}
        who = await channels["worker-1"].request("who", {}, timeout_s=10)
        assert (who["pid"], who["uid"], who["name"]) == (os.getpid(), os.getuid(), "worker-1")
        for channel in channels.values():
            await channel.close()

    run(main())


async def echo(request: Request) -> dict[str, Any]:
    """Give the payload back."""
    return request.payload


class Served:
    """A server in this process that remembers who came and went."""

    def __init__(self, path: str, **handlers: Callable[[Request], Awaitable[dict[str, Any]]]) -> None:
        self.came: list[Peer] = []
        self.gone: list[Peer] = []
        self.server = ChannelServer(
            path, {"echo": echo, **handlers}, on_peer=self.came.append, on_peer_gone=self.gone.append
        )
        self.server.start()

    def close(self) -> None:
        """Stop it."""
        self.server.close()


async def raw_client(path: str) -> socket.socket:
    """A connected socket without a channel."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, path)
    return sock


def test_frames_may_be_cut_at_every_byte(tmp_path: Path, run: Run) -> None:
    """A request with a descriptor, sent byte by byte, is the same request."""

    async def digest(request: Request) -> dict[str, Any]:
        with os.fdopen(request.take_fd(), "rb") as file:
            return {"body": file.read().decode()}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served = Served(str(tmp_path / "s"), digest=digest)
        sock = await raw_client(str(tmp_path / "s"))
        await loop.sock_sendall(sock, encode_frame({"hello": "worker-0"}))
        fd = memory_file([b"the body"])
        data = encode_frame({"n": 1, "v": "digest", "p": {}}, 1) + encode_frame({"n": 2, "v": "echo", "p": {"a": 1}})
        sock.sendmsg([data[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)
        for index in range(1, len(data)):
            await loop.sock_sendall(sock, data[index : index + 1])
            await asyncio.sleep(0)
        reader = FrameReader()
        answers: list[dict[str, Any]] = []
        while len(answers) < 2:
            answers += [frame.message for frame in reader.receive(await loop.sock_recv(sock, 65536))]
        assert {answer["n"]: answer["p"] for answer in answers} == {1: {"body": "the body"}, 2: {"a": 1}}
        sock.close()
        await until(lambda: len(served.gone) == 1)
        served.close()

    run(main())


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(9 * 1024 * 1024, 0),
        HEADER.pack(4, 9),
        HEADER.pack(4, 1) + b"{  }",
        HEADER.pack(4, 0) + b"oops",
        encode_frame({"n": "x", "v": "echo", "p": {}}),
        encode_frame({"n": 1, "v": "echo", "p": []}),
    ],
)
def test_a_peer_that_breaks_the_format_is_dropped_alone(tmp_path: Path, run: Run, data: bytes) -> None:
    """Oversized, malformed and nonsensical frames end their connection; other workers notice nothing."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served = Served(str(tmp_path / "s"))
        good = await connected(str(tmp_path / "s"))
        bad = await raw_client(str(tmp_path / "s"))
        await loop.sock_sendall(bad, encode_frame({"hello": "worker-9"}))
        await until(lambda: len(served.came) == 2)
        await loop.sock_sendall(bad, data)
        assert await loop.sock_recv(bad, 100) == b""
        await until(lambda: [peer.name for peer in served.gone] == ["worker-9"])
        assert await good.request("echo", {"a": 1}, timeout_s=10) == {"a": 1}
        bad.close()
        await good.close()
        served.close()

    run(main())


def test_a_stranger_without_a_name_is_dropped(tmp_path: Path, run: Run) -> None:
    """The first frame is a hello; without it nobody is told of the peer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served = Served(str(tmp_path / "s"))
        sock = await raw_client(str(tmp_path / "s"))
        await loop.sock_sendall(sock, encode_frame({"n": 1, "v": "echo", "p": {}}))
        assert await loop.sock_recv(sock, 100) == b""
        assert (served.came, served.gone) == ([], [])
        sock.close()
        served.close()

    run(main())


def test_a_worker_that_does_not_read_is_dropped(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushes that a worker does not take are bounded; it is dropped and its going is told."""
    monkeypatch.setattr(channel_server_module, "MAX_WAITING_BYTES", 500_000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served = Served(str(tmp_path / "s"))
        sock = await raw_client(str(tmp_path / "s"))
        await loop.sock_sendall(sock, encode_frame({"hello": "worker-0"}))
        await until(lambda: len(served.came) == 1)
        good = await connected(str(tmp_path / "s"), "worker-1")
        await until(lambda: len(served.came) == 2)
        for _ in range(30):
            served.server.push("map", {"text": "x" * 100_000})
            await asyncio.sleep(0.01)
        assert [peer.name for peer in served.gone] == ["worker-0"]
        assert good.is_connected
        sock.close()
        await good.close()
        served.close()

    run(main())


def test_a_worker_that_asks_too_much_has_to_wait(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound its frames stay in the socket until answers are out; all of them are answered."""
    monkeypatch.setattr(channel_server_module, "MAX_IN_WORK", 8)
    most = 0

    async def main() -> None:
        gate = asyncio.Event()

        async def gated(request: Request) -> dict[str, Any]:
            nonlocal most
            most = max(most, request.peer.in_work_count)
            await gate.wait()
            return {}

        served = Served(str(tmp_path / "s"), gated=gated)
        channel = await connected(str(tmp_path / "s"))
        payload = {"pad": "x" * 100_000}
        asked = [spawn(channel.request("gated", payload, timeout_s=20), name="gated") for _ in range(60)]
        await until(lambda: most >= 8)
        gate.set()
        await asyncio.gather(*asked)
        assert most <= 10
        await channel.close()
        served.close()

    run(main())


def test_a_worker_that_goes_away_does_not_cancel_its_requests(tmp_path: Path, run: Run) -> None:
    """What the keeper has begun to do it finishes; that the answer has no reader is no error."""
    done = []

    async def main() -> None:
        gate = asyncio.Event()

        async def gated(_request: Request) -> dict[str, Any]:
            await gate.wait()
            done.append(1)
            return {}

        served = Served(str(tmp_path / "s"), gated=gated)
        channel = await connected(str(tmp_path / "s"))
        asked = spawn(channel.request("gated", {}, timeout_s=20), name="gated")
        await until(lambda: bool(served.came) and next(iter(served.came)).in_work_count == 1)
        await channel.close()
        with pytest.raises(Unavailable):
            await asked
        await until(lambda: len(served.gone) == 1)
        gate.set()
        await until(lambda: done == [1])
        served.close()

    run(main())


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.EMFILE])
def test_a_lack_of_descriptors_costs_one_request_only(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Too many descriptors on their way, or open here: that request is Unavailable, the connection stays."""

    async def main() -> None:
        served = Served(str(tmp_path / "s"))
        channel = await connected(str(tmp_path / "s"))
        fd = memory_file([b"body"])

        def fail(*_args: Any) -> int:
            raise OSError(number, "no more")

        with monkeypatch.context() as patch:
            if number == errno.EMFILE:
                patch.setattr(FrameStream, "_send_now", lambda *_args: 0)
                patch.setattr(os, "dup", fail)
            else:
                patch.setattr(FrameStream, "_send_now", fail)
            with pytest.raises(Unavailable, match="does not take what we send"):
                await channel.request("echo", {}, (fd,), timeout_s=10)
        os.close(fd)
        assert await channel.request("echo", {"a": 1}, timeout_s=10) == {"a": 1}
        assert served.gone == []
        await channel.close()
        served.close()

    run(main())


def test_a_push_that_cannot_be_used_does_not_end_the_channel(tmp_path: Path, run: Run) -> None:
    """A handler of ours that fails is logged; unknown topics are ignored."""

    async def main() -> None:
        served = Served(str(tmp_path / "s"))
        channel = Channel(str(tmp_path / "s"), "worker-0")
        seen = []

        def fail(payload: dict[str, Any]) -> None:
            seen.append(payload)
            raise RuntimeError("bug")

        channel.on_push("news", fail)
        channel.start()
        await until(lambda: len(served.came) == 1)
        served.server.push("unknown", {})
        served.server.push("news", {"a": 1})
        await until(lambda: seen == [{"a": 1}])
        assert await channel.request("echo", {}, timeout_s=10) == {}
        await channel.close()
        served.close()
        assert not (tmp_path / "s").exists()

    run(main())
