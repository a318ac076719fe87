"""`directory lookup`: what the directory says about an address, from where, and how old that is."""

from dataclasses import dataclass

from mailfront.admin.errors import AdminError, Kind
from mailfront.base.printable import printable
from mailfront.directory.answers import Answer, CannotSay, DirectoryRecord, Found, NoSuch
from mailfront.intake.recipients import RecipientDirectory
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerView:
    """The directory's answer: `found`, `no such address` or `cannot say`. `reason` belongs to the last one."""

    address: str
    answer: str
    source: str = ""
    age_s: float = 0.0
    reason: str = ""
    record: RecordView | None = None


class DirectoryService:
    """See the module."""

    def __init__(self, directory: RecipientDirectory, *, local_domains: frozenset[str]) -> None:
        self._directory = directory
        self._local_domains = local_domains

    async def lookup(self, address: str) -> AnswerView:
        """Look one address up, as it would be at RCPT. Raises AdminError if it is none, or its domain is not ours."""
        parsed = read_address(address)
        if parsed.domain not in self._local_domains:
            raise AdminError(f"{parsed.domain or 'an address without a domain'} is not in domains.local")
        return show_answer(parsed, await self._directory.recipient(parsed))


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
    )
