"""Where a queued recipient goes that is not a mailbox at a storage node: the names of next hops.

A next hop is named like a node, so that leases, windows and unknown outcomes are kept for both in one way; the `@` in
front can be in no node's id. Rows of such recipients have the bucket `NEXT_HOP_BUCKET`, and the hop's name for a
mailbox key: as with a mailbox, what stands in a row is who it is for, and each attempt asks anew how to get there.
"""

from typing import Final

from mailfront.mail.names import MailboxKey, NodeId

RELAY: Final = NodeId("@relay")
"""The smarthost: addresses outside."""
RESOLVE: Final = NodeId("@resolve")
"""Nobody has looked the address up yet: notices to senders, redirected and imported recipients."""
NEXT_HOP_BUCKET: Final = 4096
"""Behind the last bucket of the placement."""

_ROUTE = "@route:"


def route_hop(name: str) -> NodeId:
    """The next hop of a `[[route]]`, by the domain or address that it is for."""
    return NodeId(_ROUTE + name)


def is_next_hop(node: NodeId) -> bool:
    """Whether this is a next hop and not a storage node."""
    return node.startswith("@")


def next_hop_key(hop: NodeId) -> MailboxKey:
    """What stands for a mailbox key in rows that go to this hop."""
    return MailboxKey(hop)
