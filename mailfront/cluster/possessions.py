"""May a configuration come into force, seen from those who own something? Pure; raises ConfigError with the counts."""

from collections import Counter
from collections.abc import Iterable, Mapping

from mailfront.base.errors import ConfigError
from mailfront.mail.names import MailboxKey, NodeId


def require_owners(
    configured: Iterable[NodeId],
    owners: Iterable[NodeId],
    pins: Mapping[MailboxKey, NodeId | None],
    held: Mapping[NodeId, Mapping[str, int]],
) -> None:
    """Raise ConfigError if a node that owns something is not configured.

    `held` is what other parts of mailfront know: node -> what -> how many, such as handed-off copies.
    """
    owned, pinned = Counter(owners), Counter(node for node in pins.values() if node is not None)
    problems = []
    for node in sorted({*owned, *pinned, *held} - set(configured)):
        things = {"buckets": owned[node], "pinned mailboxes": pinned[node], **held.get(node, {})}
        counts = ", ".join(f"{count} {what}" for what, count in things.items() if count)
        if counts:
            problems.append(f"node: {node!r} is not configured any more, but it owns {counts}; put its [[node]] back")
    if problems:
        raise ConfigError(tuple(problems))


def require_cluster(before: str, after: str) -> None:
    """Raise ConfigError if the cluster got another name."""
    if before != after:
        raise ConfigError(
            (
                f"storage.cluster: it was {before!r} and is now {after!r}; it is the key of the placement hash, and "
                "every mailbox would get another bucket: put the old name back",
            )
        )


def require_mailbox_key(before: str, after: str) -> None:
    """Raise ConfigError if mailbox keys are made of something else now."""
    if before != after:
        raise ConfigError(
            (
                f"directory: mailbox keys were made of {before} and would now be made of {after}; nearly every mailbox "
                "would get another bucket and so another home: put the old settings back",
            )
        )


def require_first_placements(before: str) -> None:
    """Raise ConfigError if the host attribute comes into use where mailboxes were placed without it."""
    if before != "on":
        raise ConfigError(
            (
                "directory.attributes.host: mailboxes were placed without it, and nobody remembers which; those whose "
                "attribute names another node would get a second, empty mailbox there: leave it out",
            )
        )
