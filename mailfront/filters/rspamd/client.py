"""Talks to rspamd: one POST per message over aiohttp, one connection each (rspamd always closes it).

The body is sent as it arrived, from wherever it is, without a copy. Answers over `MOST_ANSWER_BYTES` are an error.
"""

import asyncio
from collections.abc import AsyncIterator

import aiohttp

from mailfront.filters.contract import Filter, FilterContext, Message
from mailfront.filters.failure import FilterFailed
from mailfront.filters.forged import strip_fields
from mailfront.filters.rspamd.answer import read_answer
from mailfront.filters.rspamd.settings import RspamdSettings
from mailfront.mail.body import BodyRef
from mailfront.mail.verdict import Verdict

MOST_ANSWER_BYTES = 1024 * 1024
PATH = "/checkv2"
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)


class RspamdFilter(Filter):
    """See the module."""

    def __init__(self, settings: RspamdSettings, context: FilterContext) -> None:
        self._settings = settings
        self._context = context
        self._hosts = context.hosts(settings.url)
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def start(self) -> None:
        """See `Filter`."""
        for url in self._settings.url:
            connector: aiohttp.BaseConnector
            if url.startswith("unix:"):
                connector = aiohttp.UnixConnector(url.removeprefix("unix:"), force_close=True, limit=0)
            else:
                connector = aiohttp.TCPConnector(force_close=True, limit=0)
            self._sessions[url] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=_NO_TIMEOUT,
                trust_env=False,
                auto_decompress=False,  # we ask for nothing compressed, and bound what we read
            )

    async def close(self) -> None:
        """See `Filter`."""
        for session in self._sessions.values():
            await session.close()

    async def data(self, message: Message) -> Verdict:
        """See `Filter`."""
        request = _request_headers(message)
        data = await self._hosts.ask(lambda url: self._post(url, request, message.body))
        verdict = read_answer(data, self._settings, message.headers)
        stripped = strip_fields(message.headers, self._settings.strip)
        if not stripped:
            return verdict
        return Verdict(
            action=verdict.action,
            text=verdict.text,
            reason=verdict.reason,
            score=verdict.score,
            edits=(*stripped, *verdict.edits),
        )

    async def _post(self, url: str, request: list[tuple[str, str]], body: BodyRef) -> bytes:
        base = "http://rspamd" if url.startswith("unix:") else url
        try:
            async with self._sessions[url].post(
                base + PATH, headers=request, data=_pieces(body), allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise ConnectionError(f"rspamd answered HTTP {response.status}")
                data = b""
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > MOST_ANSWER_BYTES:
                        raise FilterFailed(f"rspamd's answer is longer than {MOST_ANSWER_BYTES} bytes")
                return data
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error


async def _pieces(body: BodyRef) -> AsyncIterator[bytes]:
    for piece in body.pieces():
        yield piece
        await asyncio.sleep(0)


def _request_headers(message: Message) -> list[tuple[str, str]]:
    """What rspamd is told beside the message; all of it is ours or was made printable."""
    client = message.client
    told = [
        ("Content-Length", str(message.body.size_bytes)),
        ("Queue-Id", message.id),
        ("From", str(message.reverse_path or "<>")),
        ("MTA-Name", message.hostname),
        *(("Rcpt", str(each.address)) for each in message.bound),
    ]
    if client.ip:
        told.append(("IP", client.ip))
    if client.helo:
        told.append(("Helo", client.helo))
    if client.tls:
        version, _, cipher = client.tls.partition(" ")
        told += [("TLS-Version", version), ("TLS-Cipher", cipher)]
    return told
