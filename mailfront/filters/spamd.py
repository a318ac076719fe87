"""The kind `spamd`: SpamAssassin's daemon gives a score; what follows from it is this filter's settings.

spamd gets the message as it arrived, without a `Received` line of ours: rules that look for the client's address in
there see only what earlier servers wrote. It is slow (from 30 ms to seconds): keep `concurrency` at or below the number
of its children, or mail waits there instead of here.
"""

from typing import Any

from pydantic import Field

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.settings import Settings, SizeBytes
from mailfront.filters.addresses import ScannerAddresses
from mailfront.filters.contract import Filter, FilterContext, Kind, Message, Stage
from mailfront.filters.forged import strip_fields
from mailfront.filters.streams import read_to_end, scanner_stream
from mailfront.mail.body import BodyRef
from mailfront.mail.verdict import Action, AddHeader, Edit, Verdict
from mailfront.protocol.spamc import MOST_ANSWER_BYTES, SpamdAnswer, read_answer, symbols_request

MOST_SYMBOLS_SHOWN = 30
_LONGEST_LEVEL = 50


class SpamdSettings(Settings):
    """Which spamd, and what is done with its score."""

    address: ScannerAddresses = ("127.0.0.1:783",)
    """`"host:783"` or `"unix:/path"`. Or a list of them: they take turns, and one that does not answer is passed over.
    """
    user: str = Field(default="", pattern=r"^[A-Za-z0-9_.@-]{0,64}$")
    """Whose preferences spamd uses. Absent: its own."""
    max_size: SizeBytes = Field(default=512 * 1024, gt=0)
    """Larger messages are not sent to spamd and pass: spam is small, and SpamAssassin is slow."""
    reject_above: float = Field(default=15.0, strict=False)
    """Messages with this score or more are refused. To refuse none, write a score that is never reached."""
    quarantine_above: float | None = Field(default=None, strict=False)
    """Messages with this score or more, that are not refused, go into quarantine. Absent: none."""
    strip: tuple[str, ...] = Field(default=("X-Spam-*",), strict=False)
    """Arriving fields to delete, because only spamd may have written them. `*` at the end fits the rest."""


class SpamdFilter(Filter):
    """See the module."""

    def __init__(self, settings: SpamdSettings, context: FilterContext) -> None:
        self._settings = settings
        self._hosts = context.hosts(settings.address)

    async def data(self, message: Message) -> Verdict:
        """See `Filter`."""
        stripped = strip_fields(message.headers, self._settings.strip)
        if message.body.size_bytes > self._settings.max_size:
            return Verdict(reason="too large for spamd, not scanned", edits=stripped)
        answer = await self._hosts.ask(lambda address: _check(address, message.body, self._settings.user))
        edits = (*stripped, *_marks(answer))
        names = ", ".join(answer.symbols[:MOST_SYMBOLS_SHOWN])
        reason = f"{answer.score:g} of {answer.required:g}: {names}"
        return Verdict(
            action=self._action(answer.score),
            text="the message looks like spam",
            reason=reason,
            edits=edits,
            score=answer.score,
        )

    def _action(self, score: float) -> Action:
        quarantine_above = self._settings.quarantine_above
        if score >= self._settings.reject_above:
            return Action.REJECT
        if quarantine_above is not None and score >= quarantine_above:
            return Action.QUARANTINE
        return Action.CONTINUE


def _marks(answer: SpamdAnswer) -> tuple[Edit, ...]:
    """The fields that SpamAssassin itself would write."""
    flag = (AddHeader("X-Spam-Flag", "YES"),) if answer.is_spam else ()
    level = "*" * max(0, min(_LONGEST_LEVEL, int(answer.score)))
    tests = ",\r\n\t".join(answer.symbols[:MOST_SYMBOLS_SHOWN]) or "none"
    scores = f"score={answer.score:.1f} required={answer.required:.1f}"
    status = f"{'Yes' if answer.is_spam else 'No'}, {scores}\r\n\ttests={tests}"
    return (
        *flag,
        AddHeader("X-Spam-Score", f"{answer.score:.1f}"),
        *((AddHeader("X-Spam-Level", level),) if level else ()),
        AddHeader("X-Spam-Status", status),
    )


async def _check(address: str, body: BodyRef, user: str) -> SpamdAnswer:
    """Raises OSError if there is no answer."""
    async with scanner_stream(address) as (reader, writer):
        writer.write(symbols_request(body.size_bytes, user))
        for piece in body.pieces():
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        try:
            return read_answer(await read_to_end(reader, MOST_ANSWER_BYTES))
        except (RemoteProtocolError, ValueError) as error:
            raise ConnectionError(str(error)) from error


def _make(settings: Any, context: FilterContext) -> Filter:
    return SpamdFilter(settings, context)


KIND = Kind(
    summary="Asks spamd (SpamAssassin) for a score.",
    settings=SpamdSettings,
    stages=frozenset({Stage.DATA}),
    make=_make,
)
