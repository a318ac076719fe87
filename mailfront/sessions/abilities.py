"""What all nodes can do, as far as it was seen: a client is promised nothing before its login that a node lacks.

Learned from each login at a node, and where clients need it before, by `glance`. A capability is promised once every
node was seen to have it; until then a client learns of it with the answer to its login.
"""

from collections.abc import Collection, Mapping

from mailfront.mail.names import NodeId


class Abilities:
    """See the module. One per worker."""

    def __init__(self, nodes: Mapping[str, Collection[NodeId]]) -> None:
        """`nodes`: per role those that serve it."""
        self._seen: dict[str, dict[NodeId, frozenset[str]]] = {
            role: dict.fromkeys(names, frozenset()) for role, names in nodes.items()
        }
        self.version = 0
        """Goes up whenever something was learned."""

    def learn(self, role: str, node: NodeId, capabilities: frozenset[str]) -> None:
        """A node has said what it can do."""
        seen = self._seen[role]
        if capabilities and seen.get(node) != capabilities:
            seen[node] = capabilities
            self.version += 1

    def have_all(self, role: str, wanted: Collection[str]) -> tuple[str, ...]:
        """Those of `wanted` that every node has, in their order."""
        seen = self._seen[role].values()
        return tuple(name for name in wanted if all(name in capabilities for capabilities in seen))

    def common(self, role: str) -> tuple[str, ...]:
        """Whatever every node has, in alphabetical order."""
        seen = tuple(self._seen[role].values())
        return tuple(sorted(frozenset.intersection(*seen))) if seen else ()
