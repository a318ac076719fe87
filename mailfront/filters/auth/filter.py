"""The filter of kind `auth`: looks up, verifies, writes the results, and enforces DMARC. See the package."""

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mailfront.filters.auth.dkim import ArcResult, SignatureResult, Signed
from mailfront.filters.auth.dmarc import DmarcResult, author_domains, check_dmarc, is_aligned, load_suffixes
from mailfront.filters.auth.results import FIELD, forged, results_field
from mailfront.filters.auth.settings import AuthSettings
from mailfront.filters.auth.spf import SpfResult, check_spf
from mailfront.filters.contract import Filter, FilterContext, FilterFailed, Message
from mailfront.mail.address import Address
from mailfront.mail.body import RestOfBody
from mailfront.mail.verdict import Edit, InsertHeader, Verdict
from mailfront.net.dns import DnsAnswer, Resolver, Trouble

THREADS_COUNT = 2


class AuthFilter(Filter):
    """See the module."""

    def __init__(self, settings: AuthSettings, context: FilterContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._authserv_id = settings.authserv_id or context.hostname
        self._names = (self._authserv_id, context.hostname)
        # Hashing a large message must not leave the answer without time.
        self._dns_timeout_s = min(settings.dns_timeout, context.timeout_s * 0.7)
        self._resolver: Resolver | None = None
        self._threads = ThreadPoolExecutor(THREADS_COUNT, thread_name_prefix=f"filter-{context.name}")

    async def start(self) -> None:
        """See `Filter`."""
        load_suffixes()
        try:
            self._resolver = Resolver(self._settings.name_servers, timeout_s=self._dns_timeout_s, clock=self._clock)
        except OSError as error:
            raise FilterFailed(str(error)) from error

    async def close(self) -> None:
        """See `Filter`."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._resolver is not None:
            await self._resolver.close()

    async def data(self, message: Message) -> Verdict:
        """See `Filter`."""
        resolver = self._resolver
        if resolver is None:
            raise FilterFailed("was not started")
        spf, (signatures, arc) = await asyncio.gather(self._spf(resolver, message), self._signatures(resolver, message))
        domains = author_domains(message.headers)
        try:
            async with asyncio.timeout(self._dns_timeout_s):
                dmarc = await check_dmarc(resolver, domains, spf, signatures)
        except TimeoutError:
            dmarc = DmarcResult(result="temperror", domain=domains[0] if domains else "", reason="DNS took too long")
        edits: tuple[Edit, ...] = (
            *forged(message.headers, self._names),
            InsertHeader(0, FIELD, results_field(self._authserv_id, spf, signatures, dmarc, arc)),
        )
        verdict = self._decide(message, dmarc, arc, Verdict(edits=edits))
        return replace(verdict, sender_proven=sender_proven(message.reverse_path, spf, dmarc))

    async def _spf(self, resolver: Resolver, message: Message) -> SpfResult:
        client, sender = message.client, message.reverse_path
        return await check_spf(
            resolver,
            ip=client.ip,
            sender=str(sender) if sender else "",
            helo=client.helo,
            receiver=message.hostname,
            timeout_s=self._dns_timeout_s,
        )

    async def _signatures(self, resolver: Resolver, message: Message) -> tuple[list[SignatureResult], ArcResult]:
        text = RestOfBody(message.body, message.body_offset_bytes)
        signed = Signed(message.headers, text.pieces)
        names = signed.key_names()
        keys: dict[str, DnsAnswer] = dict.fromkeys(names, Trouble("DNS took too long"))

        async def look_up(name: str) -> None:
            keys[name] = await resolver.lookup(name, "TXT")

        try:
            async with asyncio.timeout(self._dns_timeout_s):
                await asyncio.gather(*map(look_up, names))
        except TimeoutError:
            pass  # what came in time is used
        if not names and not signed.signature_fields:
            return [], signed.verify_arc(keys)
        verify = lambda: (signed.verify_dkim(keys), signed.verify_arc(keys))  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self._threads, verify)

    def _decide(self, message: Message, dmarc: DmarcResult, arc: ArcResult, go_on: Verdict) -> Verdict:
        if self._settings.dmarc == "report":
            return go_on
        if dmarc.result == "permerror":
            return Verdict.reject("exactly one From field with readable addresses is needed", enhanced="5.6.0")
        if dmarc.result != "fail" or (arc.result == "pass" and arc.sealer in self._settings.trusted_sealers):
            return go_on
        policy = dmarc.policy
        if zlib.crc32(message.id.encode()) % 100 >= dmarc.percent:
            # RFC 7489 section 6.6.4: what is not sampled gets the next milder treatment.
            policy = "quarantine" if policy == "reject" else "none"
        reason = f"DMARC policy of {dmarc.domain}"
        if policy == "reject":
            return Verdict.reject(f"not accepted by the {reason}", enhanced="5.7.26")
        if policy == "quarantine":
            return Verdict.quarantine(reason, edits=go_on.edits)
        return go_on


def sender_proven(sender: Address | None, spf: SpfResult, dmarc: DmarcResult) -> bool | None:
    """Whether the domain of the reverse-path vouches for the client: SPF's word about it, or DMARC's about an author of
    the same organisation. What is about another name, or no clear word, says nothing."""
    if sender is None:
        return None
    about_sender = spf.identity == "mailfrom"
    same_author = bool(dmarc.domain) and is_aligned(sender.domain, dmarc.domain, strict=False)
    if (about_sender and spf.result == "pass") or (same_author and dmarc.result == "pass"):
        return True
    if (about_sender and spf.result == "fail") or (same_author and dmarc.result == "fail"):
        return False
    return None
