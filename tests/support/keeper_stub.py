"""A keeper that does nothing but answer on the channel; run as a process: keeper_stub.py SOCKET asyncio|uvloop.

Prints `ready` when it listens. Verbs: echo, slow, never, refuse, boom, digest (of the bytes of each descriptor), who,
push (to all), open_fds (how many descriptors this process has).
"""

import asyncio
import hashlib
import os
import sys
from typing import Any

import uvloop

from mailfront.net.channel import ChannelServer, Peer, Refused, Request


class Verbs:
    """The handlers, by verb."""

    def __init__(self) -> None:
        self.server: ChannelServer | None = None

    async def echo(self, request: Request) -> dict[str, Any]:
        """Give the payload back."""
        return request.payload

    async def slow(self, request: Request) -> dict[str, Any]:
        """Answer after `after_s`."""
        await asyncio.sleep(request.payload["after_s"])
        return {}

    async def never(self, _request: Request) -> dict[str, Any]:
        """Answer never."""
        await asyncio.Event().wait()
        return {}

    async def refuse(self, _request: Request) -> dict[str, Any]:
        """Refuse with a reason."""
        raise Refused("not today\r\nFAKE")

    async def boom(self, _request: Request) -> dict[str, Any]:
        """Fail with a bug."""
        raise RuntimeError("secret detail")

    async def digest(self, request: Request) -> dict[str, Any]:
        """Hash what is behind each descriptor but the last, which is left for the request to close."""
        digests = []
        for index in range(max(1, request.fds_count - 1)):
            fd = request.take_fd(index)
            with os.fdopen(fd, "rb") as file:
                digests.append(hashlib.sha256(file.read()).hexdigest())
        return {"digests": digests}

    async def who(self, request: Request) -> dict[str, Any]:
        """Who asks, as the kernel says."""
        return {"pid": request.peer.pid, "uid": request.peer.uid, "name": request.peer.name, "keeper_pid": os.getpid()}

    async def push(self, request: Request) -> dict[str, Any]:
        """Push the payload to all workers before answering."""
        assert self.server is not None
        self.server.push("news", request.payload)
        return {}

    async def open_fds(self, _request: Request) -> dict[str, Any]:
        """How many descriptors are open here."""
        return {"count": len(os.listdir("/proc/self/fd"))}


async def serve(path: str) -> None:
    """Answer until killed."""
    verbs = Verbs()
    handlers = {name: getattr(verbs, name) for name in dir(verbs) if not name.startswith("_") and name != "server"}

    def greet(peer: Peer) -> None:
        server.push("hello", {"name": peer.name}, to=peer)

    server = ChannelServer(path, handlers, on_peer=greet)
    verbs.server = server
    server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    (uvloop.run if sys.argv[2] == "uvloop" else asyncio.run)(serve(sys.argv[1]))
