"""What `config check` asks the servers that take mail which is not for our nodes: the smarthost and those of routes.

They are greeted, with TLS and login as the settings say, and left; no message is sent. All are asked at once, the way
that deliveries go.
"""

import asyncio
from collections.abc import Iterator

from mailfront.base.errors import ConfigError
from mailfront.config.findings import Finding, failed, note, ok, warning
from mailfront.config.model import Configuration
from mailfront.delivery.evidence import NoEvidence
from mailfront.delivery.relay import Relay, RelayProbe
from mailfront.delivery.transaction import Delivery, ProbeResult
from mailfront.net.tls import node_context

_SMARTHOST = "outbound.smarthost"
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


async def check_outbound(configuration: Configuration) -> list[Finding]:
    """Ask them all. Takes as long as the slowest, at most the time-outs of `[outbound]` and `[delivery]`."""
    smarthost, routes = await asyncio.gather(_check_smarthost(configuration), _check_routes(configuration))
    return [*smarthost, *routes]


async def _check_smarthost(configuration: Configuration) -> list[Finding]:
    settings = configuration.outbound
    if settings.smarthost is None:
        return [note(_SMARTHOST, "not set; mail for addresses outside waits in the queue")]
    try:
        relay = Relay(settings, client_name=configuration.server.hostname)
    except ConfigError as error:
        return [failed("outbound", problem) for problem in error.problems]
    return list(_judge_smarthost(configuration, await relay.probe()))


def _judge_smarthost(configuration: Configuration, seen: RelayProbe) -> Iterator[Finding]:
    settings = configuration.outbound
    if seen.text:
        yield failed(_SMARTHOST, f"{settings.smarthost}: {seen.text}")
        return
    login = "takes our login, " if settings.login_file is not None else ""
    secured = f"over {seen.tls}" if seen.tls else "without TLS"
    offers = ", ".join(name.upper() for name in seen.extensions) or "nothing"
    yield ok(_SMARTHOST, f"{settings.smarthost} answers {secured}, {login}offers {offers}")
    if not seen.tls and settings.host not in _HERE:
        yield warning("outbound.tls", f'"{settings.tls}": mail goes there in the clear; "starttls" never does')
    elif seen.tls and settings.tls == "opportunistic":
        yield warning("outbound.tls", '"opportunistic": the certificate is not checked; "starttls" checks it')
    if "dsn" not in seen.extensions:
        yield note(_SMARTHOST, "does not offer DSN; senders who want to hear of success hear that it was relayed")


async def _check_routes(configuration: Configuration) -> list[Finding]:
    if not configuration.route:
        return []
    try:
        context = node_context(configuration.node_tls)
    except ConfigError:
        return []  # Said by the check of the files.
    delivery = Delivery(
        {route.hop: route.endpoint for route in configuration.route},
        client_name=configuration.server.hostname,
        settings=configuration.delivery,
        tls_context=context,
        evidence=NoEvidence(),
    )
    try:
        seen = await asyncio.gather(*(delivery.probe(route.hop) for route in configuration.route))
    finally:
        await delivery.close()
    return [_judge_route(route.name, each) for route, each in zip(configuration.route, seen, strict=True)]


def _judge_route(name: str, seen: ProbeResult) -> Finding:
    where = f'route "{name}"'
    if not seen.lmtp_ok:
        return failed(where, seen.text)
    return ok(where, f"greets and offers {', '.join(sorted(seen.extensions.names)) or 'nothing'}")
