"""What `config check` asks the storage nodes for people who log in: does each node serve what our listeners need?

A look only, up to the capabilities: nobody is logged in. All nodes and protocols are asked at once.
"""

import asyncio
import ssl

from mailfront.base.errors import ConfigError
from mailfront.cluster.settings import NodeSettings
from mailfront.config.findings import Finding, failed, ok
from mailfront.config.model import Configuration
from mailfront.net.tls import node_context
from mailfront.sessions.dialects import DIALECTS, Dialect
from mailfront.sessions.glance import glance_at
from mailfront.sessions.node import NodeEndpoint, NodeTrouble

LOOK_WITHIN_S = 10.0


async def check_sessions(configuration: Configuration) -> list[Finding]:
    """Look at every node's port for each protocol that a listener has. Takes at most `LOOK_WITHIN_S`."""
    try:
        context = node_context(configuration.node_tls)
    except ConfigError:
        return []  # Said by the check of the files.
    roles = sorted({listener.role for listener in configuration.listen} & DIALECTS.keys())
    looks = [_look(node, DIALECTS[role], context) for node in configuration.node for role in roles]
    return await asyncio.gather(*looks)


async def _look(node: NodeSettings, dialect: Dialect, context: ssl.SSLContext) -> Finding:
    where = f'node "{node.id}" {dialect.role}'
    endpoint = NodeEndpoint.of(node, dialect.port(node))
    try:
        await glance_at(dialect, endpoint, context, timeout_s=LOOK_WITHIN_S)
    except NodeTrouble as error:
        return failed(where, f"does not serve, and a listener needs it: {error}")
    return ok(where, "greets and says what it can")
