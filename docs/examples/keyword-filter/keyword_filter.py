"""A filter for mailfront: look for words in the subject, and refuse senders by name."""

from email.header import decode_header, make_header
from typing import Any, Literal

from pydantic import Field

from mailfront.base.settings import Settings
from mailfront.filters.contract import Answer, Filter, FilterContext, Kind, Mail, Message, Stage
from mailfront.mail.verdict import CONTINUE, AddHeader, Verdict


class KeywordSettings(Settings):
    """What to look for, and what to do."""

    words: tuple[str, ...] = Field(min_length=1, strict=False)
    """Words that are looked for in the subject. Capital letters do not matter."""
    found: Literal["mark", "quarantine", "reject"] = "mark"
    """What happens to a message with one of them. `mark` adds `X-Keyword`."""
    refused_senders: tuple[str, ...] = Field(default=(), strict=False)
    """Addresses that may not send at all: refused at MAIL."""


class KeywordFilter(Filter):
    """One object serves all messages of a process at once: it keeps no message in itself."""

    def __init__(self, settings: KeywordSettings, context: FilterContext) -> None:
        self._words = tuple(word.casefold() for word in settings.words)
        self._found = settings.found
        self._refused = frozenset(address.casefold() for address in settings.refused_senders)

    def mail(self, mail: Mail) -> Answer:
        """At MAIL: only the client and the sender are known, and nothing has been received yet."""
        if str(mail.reverse_path or "").casefold() in self._refused:
            return Verdict.reject("this sender is not welcome", reason="refused sender")
        return CONTINUE

    def data(self, message: Message) -> Answer:
        """After end of data. It waits for nothing, so it is a plain method and costs no task."""
        subject = decoded(message.headers.first("subject") or "").casefold()
        word = next((word for word in self._words if word in subject), None)
        if word is None:
            return CONTINUE
        match self._found:
            case "mark":
                return Verdict(reason=f"word {word}", edits=(AddHeader("X-Keyword", word),))
            case "quarantine":
                return Verdict.quarantine(f"word {word}")
            case "reject":
                return Verdict.reject("we do not want to read about that", reason=f"word {word}")


def decoded(subject: str) -> str:
    """A subject as people read it (RFC 2047); as it stands if it is broken."""
    try:
        return str(make_header(decode_header(subject)))
    except (LookupError, ValueError):
        return subject


def stages_of(settings: KeywordSettings) -> frozenset[Stage]:
    """Be asked at MAIL only if there is something to say."""
    return frozenset({Stage.DATA, Stage.MAIL} if settings.refused_senders else {Stage.DATA})


def make(settings: Any, context: FilterContext) -> Filter:
    """Make one filter from its table. What is slow to import belongs in here."""
    return KeywordFilter(settings, context)


KIND = Kind(
    summary="Looks for words in the subject, and refuses some senders.",
    settings=KeywordSettings,
    stages=stages_of,
    make=make,
)
