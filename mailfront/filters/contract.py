"""What a filter is and what it sees: the interface that kinds and plug-ins are written against.

A filter is asked at one or more stages of the dialogue with the client:

| stage | when | what is known (each stage knows what the earlier ones knew) |
|---|---|---|
| `connect` | before the greeting | the client's address |
| `mail` | at MAIL | HELO, TLS, the reverse-path, the announced size |
| `rcpt` | at each RCPT that the directory has accepted | that recipient |
| `data` | after end of data, before any delivery | all accepted recipients, the header, the body |

It answers with a `Verdict`: at once, or (a coroutine function) when it knows. Write a plain method where nothing has
to be waited for: no task is made then. What a filter raises is an error: the chain applies the `on_error` of its
table, and writes the text to the log. Time limits, concurrency, `only_for`, `shadow` and the order are the chain's
business, not the filter's. A filter may be cancelled at any await: when its time is up, or when another has refused
the message.

One object per `[[filter]]` and worker process serves all messages at once, so it keeps no message in itself. Order of
calls: made by its kind, `start` once in the running loop, any number of stages, `close` once.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Protocol

from mailfront.base.clock import Clock
from mailfront.base.ids import MessageId
from mailfront.base.settings import Settings
from mailfront.filters.failure import FilterFailed
from mailfront.filters.headers import Headers
from mailfront.filters.hosts import Hosts
from mailfront.filters.settings import DEFAULT_CONCURRENCY
from mailfront.mail.address import Address
from mailfront.mail.body import BodyRef
from mailfront.mail.client import ClientInfo
from mailfront.mail.verdict import Verdict

__all__ = [
    "Answer", "Connection", "EarlyTalk", "Filter", "FilterContext", "FilterFailed", "Finding", "Kind", "Mail",
    "Message", "Rcpt", "Recipient", "Stage",
]  # fmt: skip

Answer = Verdict | Awaitable[Verdict]


class Stage(Enum):
    """When a filter is asked; see the module."""

    CONNECT = "connect"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"


class EarlyTalk(Protocol):
    """What a client does before it has been greeted."""

    async def talks_within(self, seconds: float) -> bool:
        """Wait until the client says something, but no longer than that. Returns whether it did. Cancellation is
        safe."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one filter came to at one stage.

    `verdict` is checked; of a filter that failed it is what its `on_error` says. `binds`: the indexes of the recipients
    that it is about, None: all of them. `error` is '' unless the filter failed. `shadow`: recorded, not obeyed.
    """

    filter: str
    stage: Stage
    verdict: Verdict
    binds: frozenset[int] | None = None
    error: str = ""
    shadow: bool = False
    took_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Stage `connect`. `early` is None where there is no client to listen to (a dry run)."""

    client: ClientInfo
    early: EarlyTalk | None = None
    earlier: tuple[Finding, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One recipient. `classes` are the object classes that the directory gave it, in lower case."""

    address: Address
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """Stage `mail`. `reverse_path` None is the null reverse-path; `size_bytes` is what the client announced."""

    id: MessageId
    client: ClientInfo
    reverse_path: Address | None
    size_bytes: int | None = None
    earlier: tuple[Finding, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rcpt:
    """Stage `rcpt`: one recipient, in the envelope of `mail`."""

    mail: Mail
    recipient: Recipient
    earlier: tuple[Finding, ...] = ()

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be counted or remembered."""
        return self.mail.dry_run


@dataclass(frozen=True, kw_only=True)
class Message:
    """Stage `data`: the whole message. Nothing in it can be changed; edits are part of the verdict.

    id              the message's id, also in the log, the queue and the `Mailfront-Id` field
    client          who sends: address, HELO, protocol (`client.protocol` says ESMTPS and the like)
    recipients      all accepted recipients; `binds` are the indexes of those that this filter is asked about, `bound`
                    are these
    headers         the header, parsed once for all filters
    body            the bytes exactly as they arrived, header included, without any field of ours
    earlier         findings of earlier stages, and of the filters that this one's `after` names
    hostname        our own name, as in `Received` and for `Authentication-Results`
    dry_run         nothing may be counted or remembered
    """

    id: MessageId
    client: ClientInfo
    reverse_path: Address | None
    recipients: tuple[Recipient, ...]
    header_bytes: bytes
    body: BodyRef
    arrived_s: float
    hostname: str
    smtputf8: bool = False
    earlier: tuple[Finding, ...] = ()
    binds: frozenset[int] | None = None
    dry_run: bool = False
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What filters that look at the same message share, such as its parsed parts; keys begin with the kind's name."""

    @property
    def bound(self) -> tuple[Recipient, ...]:
        """The recipients that this filter is asked about. A scanner is shown no others: it would judge them, too."""
        if self.binds is None:
            return self.recipients
        return tuple([each for index, each in enumerate(self.recipients) if index in self.binds])

    @cached_property
    def headers(self) -> Headers:
        """See the class. All views of one message share it."""
        found = self.cache.get("headers")
        if found is None:
            found = self.cache["headers"] = Headers(self.header_bytes)
        assert isinstance(found, Headers)
        return found

    @property
    def body_offset_bytes(self) -> int:
        """Where the text begins in `body`: behind the empty line after the header."""
        size_bytes = len(self.header_bytes)
        return size_bytes + 2 if self.body.size_bytes > size_bytes else size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterContext:
    """What a filter is given when it is made.

    `name` is that of its table, for the log. `hosts(addresses)` makes the breakers of its scanners: call what they
    yield and nothing else. `timeout_s` is how long one answer may take, from its turn on. Paths in
    settings are absolute by then. `services` are what the process offers by name (`counters`:
    the keeper's shared counters); a filter that finds its service missing raises `FilterFailed` when it is asked.
    """

    name: str
    hostname: str
    clock: Clock
    timeout_s: float
    hosts: Callable[[Sequence[str]], Hosts]
    local_domains: frozenset[str] = frozenset()
    services: Mapping[str, Any] = field(default_factory=dict)


class Filter:
    """Base of all filters. Override the stages that the kind declares; the others are never called."""

    async def start(self) -> None:
        """Make ready, inside the running loop. Must not wait for a scanner: it may be down. Raises FilterFailed: it is
        then not asked, and `on_error` applies to every message until the next start."""

    async def close(self) -> None:
        """The process ends: close connections."""

    def connect(self, connection: Connection) -> Answer:
        """See `Stage`."""
        raise NotImplementedError

    def mail(self, mail: Mail) -> Answer:
        """See `Stage`."""
        raise NotImplementedError

    def rcpt(self, rcpt: Rcpt) -> Answer:
        """See `Stage`."""
        raise NotImplementedError

    def data(self, message: Message) -> Answer:
        """See `Stage`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of filter, found by the entry point of its name in the group `mailfront.filters`.

    summary    one line for the reference
    settings   model of `settings` in its table; a subclass of `mailfront.base.settings.Settings`
    stages     when its filters are asked: always, or as their settings say
    make       makes the filter; import what is heavy in there. Raises ConfigError for what cannot work here.
    concurrency  what `concurrency` is if its table does not say: high for a filter that mostly waits for clients
    """

    summary: str
    settings: type[Settings]
    stages: frozenset[Stage] | Callable[[Any], frozenset[Stage]]
    make: Callable[[Any, FilterContext], Filter]
    concurrency: int = DEFAULT_CONCURRENCY

    def stages_of(self, settings: Settings) -> frozenset[Stage]:
        """When a filter with these settings is asked."""
        return self.stages if isinstance(self.stages, frozenset) else self.stages(settings)
