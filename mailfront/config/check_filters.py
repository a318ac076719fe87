"""What `config check` finds out about filters: whether they can be made, and whether their scanners can be reached.

A scanner that is away is a warning, not a failure: what happens to mail then is written in the file (`on_error`). It is
only connected to; no message is sent.
"""

import asyncio
from urllib.parse import urlsplit

from mailfront.base.clock import SystemClock
from mailfront.base.errors import ConfigError
from mailfront.config.findings import Finding, failed, ok, warning
from mailfront.config.model import Configuration
from mailfront.filters.addresses import split_tcp
from mailfront.filters.chain import Surroundings, build_chain
from mailfront.filters.settings import FilterSettings

_TIMEOUT_S = 5.0


async def check_filters(configuration: Configuration) -> list[Finding]:
    """Try all filters at once. Takes at most `_TIMEOUT_S`."""
    checks = [_check_filter(each, configuration) for each in configuration.filter]
    return [finding for findings in await asyncio.gather(*checks) for finding in findings]


async def _check_filter(settings: FilterSettings, configuration: Configuration) -> list[Finding]:
    where = f'filter "{settings.name}"'
    surroundings = Surroundings(
        hostname=configuration.server.hostname,
        clock=SystemClock(),
        local_domains=frozenset(configuration.domains.local),
    )
    try:
        chain = build_chain([settings.model_copy(update={"after": ()})], surroundings)
    except ConfigError as error:
        return [failed(where, problem) for problem in error.problems]
    hosts = [breaker.name for breaker in chain.breakers.get(settings.name, ())]
    return list(await asyncio.gather(*(_check_host(where, host, settings.on_error) for host in hosts)))


async def _check_host(where: str, host: str, on_error: str) -> Finding:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            if host.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(host.removeprefix("unix:"))
            else:
                _, writer = await asyncio.open_connection(*_tcp(host))
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error) or "no answer"
        return warning(where, f"{host} cannot be reached: {reason}; meanwhile on_error = {on_error!r} applies")
    writer.close()
    return ok(where, f"{host} can be reached")


def _tcp(host: str) -> tuple[str, int]:
    """Host and port of an address or a URL."""
    parts = urlsplit(host)
    if parts.scheme in ("http", "https") and parts.hostname:
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    return split_tcp(host)
