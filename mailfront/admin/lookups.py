"""`directory lookup`: what the directory says about an address, from where, how old that is, and where it leads."""

from dataclasses import dataclass, replace

from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.ways import WayView, way_of
from mailfront.base.printable import printable
from mailfront.directory.answers import Answer, ByDn, CannotSay, DirectoryRecord, Found, NoSuch
from mailfront.intake.recipients import RecipientDirectory, Recipients
from mailfront.mail.address import Address, parse_path


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordView:
    """One directory record, for people."""

    mailbox: str
    mailbox_key: str
    address: str
    status: str
    over_quota: bool
    host: str | None
    redirected: bool
    classes: tuple[str, ...]
    forwards: tuple[str, ...] = ()
    keeps_copy: bool = False
    owner: str | None = None
    members_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerView:
    """The directory's answer: `found`, `no such address` or `cannot say`, and then `reason` says why. `way`: where a
    forward or a list leads, unless nobody can say that now (`reason`); its first thing is the address itself."""

    address: str
    answer: str
    source: str = ""
    age_s: float = 0.0
    reason: str = ""
    record: RecordView | None = None
    way: WayView | None = None


class DirectoryService:
    """See the module."""

    def __init__(self, directory: RecipientDirectory, recipients: Recipients, *, local_domains: frozenset[str]) -> None:
        self._directory = directory
        self._recipients = recipients
        self._local_domains = local_domains

    async def lookup(self, address: str) -> AnswerView:
        """Look one address up, as it would be at RCPT. Raises AdminError if it is none, or its domain is not ours."""
        parsed = read_address(address)
        if parsed.domain not in self._local_domains:
            raise AdminError(f"{parsed.domain or 'an address without a domain'} is not in domains.local")
        answer = await self._directory.recipient(parsed)
        shown = show_answer(parsed, answer)
        if not isinstance(answer, Found) or not answer.record.redirected:
            return shown
        steps = await self._recipients.steps(answer)
        if isinstance(steps, CannotSay):
            return replace(shown, reason=f"where it leads cannot be said: {printable(steps.reason, 400)}")
        return replace(shown, way=way_of(steps))


def read_address(text: str) -> Address:
    """Read what an administrator typed. Raises AdminError."""
    address = parse_path(text.strip().removeprefix("<").removesuffix(">"))
    if address is None:
        raise AdminError(f"{printable(text, 80)!r} is not a mail address", Kind.USAGE)
    return address


def show_answer(address: Address, answer: Answer) -> AnswerView:
    """Make an answer fit to be shown."""
    match answer:
        case Found(record, source, age_s):
            return AnswerView(
                address=str(address), answer="found", source=source.value, age_s=age_s, record=show_record(record)
            )
        case NoSuch(source, age_s):
            return AnswerView(address=str(address), answer="no such address", source=source.value, age_s=age_s)
        case CannotSay(reason):
            return AnswerView(address=str(address), answer="cannot say", reason=printable(reason, 400))


def show_record(record: DirectoryRecord) -> RecordView:
    """Make a record fit to be shown."""
    return RecordView(
        mailbox=printable(record.mailbox),
        mailbox_key=printable(record.key),
        address=str(record.address),
        status=record.status.value,
        over_quota=record.over_quota,
        host=None if record.host is None else printable(record.host),
        redirected=record.redirected,
        classes=record.classes,
        forwards=tuple(map(str, record.forwards)),
        keeps_copy=record.keeps_copy,
        owner=_owner(record),
        members_count=0 if record.group is None else len(record.group.members),
    )


def _owner(record: DirectoryRecord) -> str | None:
    owner = None if record.group is None else record.group.owner
    if owner is None:
        return None
    return printable(owner.dn if isinstance(owner, ByDn) else str(owner))
