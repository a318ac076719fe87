"""The filter of kind `mime`: scans each message in a thread. See the package."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from mailfront.filters.contract import Filter, FilterContext, Message
from mailfront.filters.mime.scan import Limits, Patterns, TooMuch, scan
from mailfront.filters.mime.settings import MimeSettings
from mailfront.mail.body import BodyRef
from mailfront.mail.verdict import CONTINUE, Verdict

THREADS_COUNT = 2


class MimeFilter(Filter):
    """See the module."""

    def __init__(self, settings: MimeSettings, context: FilterContext) -> None:
        self._patterns = Patterns(settings.forbidden_names, settings.forbidden_types)
        self._limits = Limits(
            parts=settings.max_parts,
            depth=settings.max_depth,
            fields=settings.max_headers,
            header_bytes=settings.max_header_size,
            archive_bytes=settings.archive_size,
            archives=settings.archives,
        )
        self._quarantines = settings.forbidden == "quarantine"
        self._threads = ThreadPoolExecutor(THREADS_COUNT, thread_name_prefix=f"filter-{context.name}")

    async def close(self) -> None:
        """See `Filter`."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def data(self, message: Message) -> Verdict:
        """See `Filter`."""
        loop = asyncio.get_running_loop()
        try:
            forbidden = await loop.run_in_executor(self._threads, self._scan, message.body)
        except TooMuch as error:
            return Verdict.reject(f"the message has {error}", code=552, enhanced="5.6.0", reason=str(error))
        if not forbidden:
            return CONTINUE
        if self._quarantines:
            return Verdict.quarantine(f"forbidden attachment: {forbidden}")
        return Verdict.reject(f"attachments like this are not accepted: {forbidden}", code=552, enhanced="5.7.1")

    def _scan(self, body: BodyRef) -> str:
        return scan(b"".join(body.pieces()), self._patterns, self._limits)
