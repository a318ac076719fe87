"""Names that must not be mixed up.

`MailboxKey` is canonical (lower case, NFC): it is hashed, locked and pinned, and never told to a node. `NodeUser` is
what a node is told, as the directory wrote it. `NodeId` is a storage node's name in the configuration; addresses and
ports may change under it.
"""

from typing import NewType

MailboxKey = NewType("MailboxKey", str)
NodeUser = NewType("NodeUser", str)
NodeId = NewType("NodeId", str)
