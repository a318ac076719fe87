"""The kind `clamd`: ClamAV's daemon looks for viruses (INSTREAM), also inside MIME parts and archives.

The message goes there as it arrived. It is the site's decision what becomes of a message that is larger than what clamd
takes (`max_size` here, `StreamMaxLength` there): `too_large`.
"""

import asyncio
from typing import Any, Literal

from pydantic import Field

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.settings import Settings, SizeBytes
from mailfront.base.tasks import cancel_and_wait, spawn
from mailfront.filters.addresses import ScannerAddresses
from mailfront.filters.contract import Filter, FilterContext, FilterFailed, Kind, Message, Stage
from mailfront.filters.streams import scanner_stream
from mailfront.mail.body import BodyRef
from mailfront.mail.verdict import CONTINUE, AddHeader, Verdict
from mailfront.protocol.clamd import (
    CLOSING,
    OPENING,
    ClamdAnswer,
    Clean,
    Infected,
    NotScanned,
    TooLarge,
    chunk_head,
    read_answer,
)


class ClamdSettings(Settings):
    """Which clamd, and what is done with what it finds."""

    address: ScannerAddresses = ("unix:/run/clamav/clamd.ctl",)
    """`"host:3310"` or `"unix:/path"`. Or a list of them: they take turns, and one that does not answer is passed over.
    """
    max_size: SizeBytes = Field(default=25 * 1024 * 1024, gt=0)
    """Larger messages are not sent to clamd. Keep it at or below its StreamMaxLength."""
    too_large: Literal["accept", "tempfail", "reject", "quarantine"] = "accept"
    """What happens to a message that is too large to be scanned. `accept` marks it: `X-Virus-Status: not scanned`."""
    infected: Literal["reject", "quarantine", "discard"] = "reject"
    """What happens to a message with a virus."""


class ClamdFilter(Filter):
    """See the module."""

    def __init__(self, settings: ClamdSettings, context: FilterContext) -> None:
        self._settings = settings
        self._hosts = context.hosts(settings.address)

    async def data(self, message: Message) -> Verdict:
        """See `Filter`."""
        if message.body.size_bytes > self._settings.max_size:
            return self._unscanned()
        answer = await self._hosts.ask(lambda address: _scan(address, message.body))
        match answer:
            case Clean():
                return CONTINUE
            case Infected(name):
                return self._infected(name)
            case TooLarge():
                return self._unscanned()
            case NotScanned(reason):
                raise FilterFailed(f"clamd did not scan it: {reason}")

    def _infected(self, name: str) -> Verdict:
        reason = f"virus {name}"
        match self._settings.infected:
            case "reject":
                return Verdict.reject(f"the message contains a virus ({name})", enhanced="5.7.1", reason=reason)
            case "quarantine":
                return Verdict.quarantine(reason)
            case "discard":
                return Verdict.discard(reason)

    def _unscanned(self) -> Verdict:
        reason = "too large to be scanned for viruses"
        match self._settings.too_large:
            case "accept":
                return Verdict(reason=reason, edits=(AddHeader("X-Virus-Status", "not scanned, too large"),))
            case "tempfail":
                return Verdict.tempfail(f"the message is {reason}", enhanced="4.3.4", reason=reason)
            case "reject":
                return Verdict.reject(f"the message is {reason}", code=552, enhanced="5.3.4", reason=reason)
            case "quarantine":
                return Verdict.quarantine(reason)


async def _scan(address: str, body: BodyRef) -> ClamdAnswer:
    """Raises OSError if there is no answer."""
    async with scanner_stream(address) as (reader, writer):
        # Read while writing: clamd answers a stream that is too long before its end, and then resets the connection.
        answering = spawn(_line(reader), name="clamd answer")
        try:
            await _send(writer, body, answering)
            return read_answer(await answering)
        except RemoteProtocolError as error:
            raise ConnectionError(str(error)) from error
        finally:
            await cancel_and_wait(answering)


async def _send(writer: asyncio.StreamWriter, body: BodyRef, answering: "asyncio.Task[bytes]") -> None:
    writer.write(OPENING)
    try:
        for piece in body.pieces():
            if answering.done():
                return
            writer.write(chunk_head(len(piece)) + piece)
            await writer.drain()
    except ConnectionError:
        return  # the answer, or its absence, tells more
    writer.write(CLOSING)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The answer; as much of it as there was if the connection was lost."""
    try:
        return await reader.readuntil(b"\0")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except (OSError, asyncio.LimitOverrunError):
        return b""


def _make(settings: Any, context: FilterContext) -> Filter:
    return ClamdFilter(settings, context)


KIND = Kind(
    summary="Asks clamd (ClamAV) for viruses.",
    settings=ClamdSettings,
    stages=frozenset({Stage.DATA}),
    make=_make,
)
