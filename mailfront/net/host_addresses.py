"""The addresses of the nodes' host names, asked once a minute and not once per connection.

The system's resolver blocks a thread per question, and a name server that does not answer holds that thread for
seconds. So a name is asked about by one question at a time, and while no answer comes the last one goes on being used,
however old it is: a node does not move because DNS is away. A name that was never resolved raises OSError.

Nothing here survives the process. Sizes: one entry per host name of the configuration.
"""

import asyncio
import ipaddress
import socket

from mailfront.base.tasks import spawn

FRESH_S = 60.0
AGAIN_AFTER_S = 5.0


class HostAddresses:
    """See the module. One per process part that connects."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[str, ...], float]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._problems: dict[str, OSError] = {}

    async def of(self, host: str) -> tuple[str, ...]:
        """The addresses of a host, in the resolver's order. An address is its own. Raises OSError. Waits only for a
        name that was never resolved; cancellation is safe."""
        known = self._known.get(host)
        if known is None:
            if _is_address(host):
                known = self._known[host] = ((host,), float("inf"))
            else:
                await asyncio.shield(self._ask(host))
                known = self._known.get(host)
                if known is None:
                    raise self._problems[host]
        elif known[1] <= asyncio.get_running_loop().time():
            self._ask(host)
        return known[0]

    def _ask(self, host: str) -> asyncio.Task[None]:
        task = self._asking.get(host)
        if task is None:
            task = self._asking[host] = spawn(self._resolve(host), name=f"resolve {host}")
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        return task

    async def _resolve(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            self._problems[host] = error
            if host in self._known:
                self._known[host] = (self._known[host][0], loop.time() + AGAIN_AFTER_S)
            return
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        self._known[host] = (addresses, loop.time() + FRESH_S)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
