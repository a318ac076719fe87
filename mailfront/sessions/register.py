"""The session register: who is logged in where, through this front end. Kept by the keeper, told by the workers.

It is a picture for administrators, not the truth: the truth is in the workers, each of which knows its own sessions. A
session stands here a moment after its login and leaves a moment after its end. A worker that goes away takes its rows
along; one that comes back tells all of them anew. Nothing is stored, nothing survives the keeper, and no login waits
for it.

Limits: `MAX_ROWS_PER_WORKER`; what comes beyond is counted by a metric and cannot be listed or ended by name.
"""

import ipaddress
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mailfront.base.printable import printable
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.net.networks import Network, is_listed

MAX_ROWS_PER_WORKER = 100_000

Worker = TypeVar("Worker", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One logged-in session. `login` is what the client called itself, `opened_s` wall clock, `tls` '' for none."""

    id: str
    protocol: str
    login: str
    mailbox: MailboxKey
    node: NodeId
    client_ip: str
    client_port: int
    tls: str
    opened_s: float

    def to_wire(self) -> list[Any]:
        """As it travels from worker to keeper: the fields in the order of the class."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def from_wire(cls, fields: Sequence[Any]) -> "SessionRow":
        """Read what `to_wire` wrote. Raises ValueError."""
        if len(fields) != len(cls.__slots__):
            raise ValueError(f"a session has {len(cls.__slots__)} fields, not {len(fields)}")
        return cls(**dict(zip(cls.__slots__, fields, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSelection:
    """Which sessions: all conditions that are given must hold; of several values of one condition, any.

    `users`: login names or mailbox keys, in lower case here and in any case there.
    """

    ids: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    mailboxes: frozenset[MailboxKey] = frozenset()
    nodes: frozenset[str] = frozenset()
    protocols: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no condition is given: then every session is meant."""
        return not (self.ids or self.users or self.mailboxes or self.nodes or self.protocols or self.networks)

    def has(self, row: SessionRow) -> bool:
        """Whether it is one of them."""
        return (
            (not self.ids or row.id in self.ids)
            and (not self.nodes or row.node in self.nodes)
            and (not self.protocols or row.protocol in self.protocols)
            and (not self.mailboxes or row.mailbox in self.mailboxes)
            and (not self.users or row.mailbox.lower() in self.users or row.login.lower() in self.users)
            and (not self.networks or is_listed(row.client_ip, self.networks))
        )


class SessionRegister:
    """See the module. One per keeper. Workers are whatever the caller knows them by."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, dict[str, SessionRow]] = {}

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def begin(self, worker: Hashable) -> None:
        """A worker tells all its sessions anew: forget what it had said."""
        self._rows.pop(worker, None)

    def opened(self, worker: Hashable, row: SessionRow) -> bool:
        """A session was opened. Returns False if it is not listed, because this worker has too many."""
        rows = self._rows.setdefault(worker, {})
        if len(rows) >= MAX_ROWS_PER_WORKER and row.id not in rows:
            return False
        rows[row.id] = row
        return True

    def closed(self, worker: Hashable, id: str) -> None:
        """A session has ended. One that is not known is no mistake."""
        self._rows.get(worker, {}).pop(id, None)

    def gone(self, worker: Hashable) -> None:
        """A worker's connection ended: its sessions are not known any more."""
        self._rows.pop(worker, None)

    def find(self, wanted: SessionSelection) -> Iterator[tuple[Hashable, SessionRow]]:
        """The sessions that are meant, with the worker that has each. Do not change the register meanwhile."""
        for worker, rows in self._rows.items():
            for row in rows.values():
                if wanted.has(row):
                    yield worker, row


def read_network(text: str) -> Network:
    """Read an address or a network, such as `192.0.2.7` or `2001:db8::/32`. Raises ValueError with what to do."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(
            f"{printable(text, 80)!r} is no address or network; write 192.0.2.7 or 192.0.2.0/24"
        ) from error
