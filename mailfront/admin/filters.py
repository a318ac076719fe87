"""`filter list` and `filter test`: the chain as it is, and what it would say about a message.

The list counts over all workers; breakers are those that workers have told of. A test goes through a chain of this
process' own, made from the configuration in force: it asks the same scanners, leaves nothing behind (`dry_run`), and
its breakers are not those of the workers.
"""

import asyncio
import base64
import binascii
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol, assert_never

from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.lookups import read_address
from mailfront.admin.requests import FilterTestRequest
from mailfront.base.clock import Clock
from mailfront.base.errors import ConfigError
from mailfront.base.ids import new_message_id
from mailfront.base.printable import printable
from mailfront.directory.answers import Found
from mailfront.filters.arbitration import Ruling, arbitrate, one_reply
from mailfront.filters.chain import Chain, DeadlinePassed, Findings, View
from mailfront.filters.contract import Connection, Finding, Mail, Message, Rcpt, Recipient, Stage
from mailfront.filters.order import in_order
from mailfront.filters.registry import kind_of
from mailfront.filters.settings import FilterSettings
from mailfront.intake.recipients import RecipientDirectory
from mailfront.intake.trace_header import message_header
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody
from mailfront.mail.client import ClientInfo
from mailfront.mail.verdict import (
    Action,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    Edit,
    InsertHeader,
    ReplaceBody,
)
from mailfront.observe import meters, metrics
from mailfront.observe.quantiles import quantile

MOST_VALUE_CHARS = 200


class Breakers(Protocol):
    """What the workers have told of scanners that are not called."""

    def open_hosts(self, name: str) -> Mapping[str, str]:
        """The hosts of a filter that some worker does not call, and why."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterView:
    """One filter, for people. `hosts`: of each host `closed`, or `open: ` and the reason. Times are of all workers."""

    name: str
    kind: str
    stages: tuple[str, ...]
    after: tuple[str, ...]
    on_error: str
    timeout_s: float
    concurrency: int
    only_for: dict[str, Any]
    shadow: bool
    settings: dict[str, Any]
    hosts: dict[str, str]
    verdicts: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingView:
    """What one filter said in a test."""

    filter: str
    stage: str
    verdict: str
    reply: str
    reason: str
    error: str
    score: float | None
    edits: tuple[str, ...]
    recipients: tuple[str, ...]
    shadow: bool
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RulingView:
    """What would become of one recipient's copy, over SMTP with these recipients."""

    recipient: str
    action: str
    reply: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TestView:
    """A whole test."""

    findings: tuple[FindingView, ...]
    rulings: tuple[RulingView, ...]
    ms: float


class FilterService:
    """See the module."""

    def __init__(
        self,
        filters: Sequence[FilterSettings],
        build: Callable[[], Chain],
        breakers: Breakers,
        directory: RecipientDirectory,
        clock: Clock,
        *,
        hostname: str,
        postmaster: Address,
        deadline_s: float,
    ) -> None:
        self._filters = tuple(filters)
        self._build = build
        self._breakers = breakers
        self._directory = directory
        self._clock = clock
        self._hostname = hostname
        self._postmaster = postmaster
        self._deadline_s = deadline_s
        self._chain: Chain | None = None

    async def close(self) -> None:
        """The process ends."""
        if self._chain is not None:
            await self._chain.close()

    async def list(self) -> tuple[FilterView, ...]:
        """All filters, in the order in which they are asked."""
        chain = await self._started()
        verdicts = meters.totals(metrics.FILTERS_VERDICTS.name)
        seconds = meters.totals(metrics.FILTERS_SECONDS.name)
        return tuple(self._view(each, chain, verdicts, seconds) for each in in_order(self._filters))

    def _view(self, settings: FilterSettings, chain: Chain, verdicts: Any, seconds: Any) -> FilterView:
        opened = self._breakers.open_hosts(settings.name)
        hosts = {each.name: "closed" for each in chain.breakers.get(settings.name, ())}
        hosts |= {host: f"open: {reason}" for host, reason in opened.items()}
        counts = {
            labels["verdict"]: int(value)
            for labels, value in ((dict(key), value) for key, value in verdicts.items())
            if labels.get("filter") == settings.name
        }
        buckets = {
            inf if labels["le"] == "+Inf" else float(labels["le"]): value
            for labels, value in ((dict(key), value) for key, value in seconds.items())
            if labels.get("filter") == settings.name and "le" in labels
        }
        kind = kind_of(settings)
        stages = kind.stages_of(settings.settings)
        return FilterView(
            name=settings.name,
            kind=settings.kind,
            stages=tuple(stage.value for stage in Stage if stage in stages),
            after=settings.after,
            on_error=settings.on_error,
            timeout_s=settings.timeout,
            concurrency=settings.concurrency,
            only_for=settings.only_for.model_dump(mode="json", exclude_defaults=True),
            shadow=settings.shadow,
            settings=settings.settings.model_dump(mode="json"),
            hosts=hosts,
            verdicts=counts,
            p50_ms=_ms(quantile(buckets, 0.5)),
            p99_ms=_ms(quantile(buckets, 0.99)),
        )

    async def test(self, request: FilterTestRequest) -> TestView:
        """Ask all filters of all stages about a message. Raises AdminError."""
        try:
            data = base64.b64decode(request.message, validate=True)
        except binascii.Error as error:
            raise AdminError("the message is not base64", Kind.USAGE) from error
        chain = await self._started()
        addresses = [read_address(each) for each in request.to] or [self._postmaster]
        sender = read_address(request.sender) if request.sender else None
        recipients = tuple([await self._recipient(address) for address in addresses])
        client = ClientInfo(ip=request.ip, port=0, helo=printable(request.helo), protocol="ESMTP", listener="test")
        run = _Test(chain, client, sender, recipients, data, self._clock, self._hostname)
        started_s = self._clock.monotonic_s()
        try:
            findings = await run.findings(asyncio.get_running_loop().time() + self._deadline_s)
        except DeadlinePassed as error:
            raise AdminError(f"not done within {self._deadline_s:g} s: {error}", Kind.LATER) from error
        rulings = one_reply(arbitrate(findings, addresses))
        return TestView(
            findings=tuple(_finding_view(each, addresses) for each in findings),
            rulings=tuple(_ruling_view(address, each) for address, each in zip(addresses, rulings, strict=True)),
            ms=round((self._clock.monotonic_s() - started_s) * 1000, 1),
        )

    async def _recipient(self, address: Address) -> Recipient:
        answer = await self._directory.recipient(address)
        return Recipient(address=address, classes=answer.record.classes if isinstance(answer, Found) else ())

    async def _started(self) -> Chain:
        if self._chain is None:
            try:
                chain = self._build()
            except ConfigError as error:
                raise AdminError("; ".join(error.problems)) from error
            await chain.start()
            self._chain = chain
        return self._chain


class _Test:
    """One message on its way through all stages."""

    def __init__(
        self,
        chain: Chain,
        client: ClientInfo,
        sender: Address | None,
        recipients: tuple[Recipient, ...],
        data: bytes,
        clock: Clock,
        hostname: str,
    ) -> None:
        self._chain = chain
        self._client = client
        self._sender = sender
        self._recipients = recipients
        self._data = data
        self._clock = clock
        self._hostname = hostname

    async def findings(self, deadline_s: float) -> Findings:
        """Ask. Unlike a client's message, it goes on to the end whatever the earlier stages say."""
        found = await self._ask(Stage.CONNECT, Connection(client=self._client, dry_run=True))
        message_id = new_message_id(self._clock.wall_s())
        size_bytes = len(self._data)
        mail = Mail(
            id=message_id,
            client=self._client,
            reverse_path=self._sender,
            size_bytes=size_bytes,
            earlier=found,
            dry_run=True,
        )
        found += await self._ask(Stage.MAIL, mail)
        mail = replace(mail, earlier=found)
        for index, recipient in enumerate(self._recipients):
            asked = await self._ask(Stage.RCPT, Rcpt(mail=mail, recipient=recipient, earlier=mail.earlier))
            found += tuple([replace(each, binds=frozenset({index})) for each in asked])
        body = MemoryBody(self._data)
        message = Message(
            id=message_id,
            client=self._client,
            reverse_path=self._sender,
            recipients=self._recipients,
            header_bytes=message_header(body),
            body=body,
            arrived_s=self._clock.wall_s(),
            hostname=self._hostname,
            earlier=found,
            dry_run=True,
        )
        return found + await self._ask(Stage.DATA, message, deadline_s)

    async def _ask(self, stage: Stage, view: View, deadline_s: float | None = None) -> Findings:
        asked = self._chain.ask(stage, view, deadline_s)
        return await asked if inspect.isawaitable(asked) else asked


def _finding_view(finding: Finding, addresses: Sequence[Address]) -> FindingView:
    verdict = finding.verdict
    binds = sorted(finding.binds) if finding.binds is not None else ()
    return FindingView(
        filter=finding.filter,
        stage=finding.stage.value,
        verdict=verdict.action.value,
        reply=_reply(finding),
        reason=verdict.reason,
        error=finding.error,
        score=verdict.score,
        edits=tuple(describe(edit) for edit in verdict.edits),
        recipients=tuple(str(addresses[index]) for index in binds),
        shadow=finding.shadow,
        ms=round(finding.took_s * 1000, 2),
    )


def _ruling_view(address: Address, ruling: Ruling) -> RulingView:
    return RulingView(
        recipient=str(address),
        action=ruling.action.value,
        reply="" if ruling.by is None else _reply(ruling.by) if ruling.action in _REFUSALS else "",
        reason=ruling.reason,
    )


_REFUSALS = (Action.REJECT, Action.TEMPFAIL)


def _reply(finding: Finding) -> str:
    verdict = finding.verdict
    return f"{verdict.code} {verdict.enhanced} {verdict.text}" if verdict.action in _REFUSALS else ""


def describe(edit: Edit) -> str:
    """An edit in words."""
    match edit:
        case AddHeader(name, value):
            return f"add {name}: {printable(value, MOST_VALUE_CHARS)}"
        case InsertHeader(position, name, value):
            return f"insert at {position} {name}: {printable(value, MOST_VALUE_CHARS)}"
        case ChangeHeader(name, occurrence, value):
            return f"change {name} ({occurrence}) to: {printable(value, MOST_VALUE_CHARS)}"
        case DeleteHeader(name, occurrence):
            return f"delete {name}" + (f" ({occurrence})" if occurrence is not None else "")
        case AddRecipient(address):
            return f"add recipient {address}"
        case ChangeSender(None):
            return "change sender to <>"
        case ChangeSender(sender):
            return f"change sender to {sender}"
        case DeleteRecipient(address):
            return f"delete recipient {address}"
        case ReplaceBody(data):
            return f"replace the text by {len(data)} bytes"
        case _:
            assert_never(edit)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
