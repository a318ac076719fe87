"""DKIM (RFC 6376, 8301, 8463) and ARC (RFC 8617): the signatures of a message, with dkimpy's parsers and chain logic.

Not dkimpy's, because it believes too much or is too slow (each is a test): the header must be well formed, or nothing
passes (`From ` lines, a folded first line); `l=` and rsa-sha1 and small keys are `policy`, never `pass`; more than
`MOST_SIGNATURES` signatures are `permerror`, all of them; a key that DNS could not give is `temperror`; the body is
hashed once per canonicalisation, in pieces; RSA and Ed25519 are done by `cryptography`.

Order of calls: `Signed(headers, pieces)`; `key_names` says which TXT records are needed; with the answers, in a thread:
`verify_dkim(answers)`, `verify_arc(answers)`. Neither raises for anything that a message or a record may hold.
"""

import base64
import binascii
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import dkim
from dkim.canonicalization import CanonicalizationPolicy, InvalidCanonicalizationPolicyError
from dkim.util import InvalidTagValueList, parse_tag_value

from mailfront.base.printable import printable
from mailfront.filters.auth.body_hash import body_hash
from mailfront.filters.auth.keys import BadKey, PublicKey, read_key
from mailfront.filters.headers import HeaderField, Headers
from mailfront.net.dns import Absent, DnsAnswer, Found, Trouble

MOST_SIGNATURES = 10
MOST_SIGNED_FIELDS = 300
MOST_FIELD_BYTES = 16 * 1024
MOST_ARC_SETS = 50
_DOMAIN = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_BLANKS = re.compile(rb"[ \t\r\n]+")
_SIGNATURE = re.compile(rb"((?:^|;)[ \t\r\n]*b[ \t\r\n]*=)[^;]*")
_ARC_FIELDS = ("arc-seal", "arc-message-signature", "arc-authentication-results")

# dkimpy logs what messages say.
_SILENT = logging.getLogger("mailfront.dkimpy")
_SILENT.disabled = True

Keys = Mapping[str, DnsAnswer]
_Tags = dict[bytes, bytes]
_Field = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureResult:
    """One signature. `result` is one of RFC 8601 section 2.7.1; domain, selector and so on are '' if unreadable."""

    result: str
    reason: str = ""
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    start: str = ""
    """The first characters of b=, which tell signatures of one domain apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArcResult:
    """The chain. `result`: none, pass, fail, temperror, permerror; `sealer` is the domain of the newest seal."""

    result: str
    reason: str = ""
    sealer: str = ""
    sets_count: int = 0


class _Refused(Exception):
    """A signature does not pass. `result` is why."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result


class _Temporary(Exception):
    """DNS could not give a key. No DKIMException: dkimpy must not take it for a bad signature."""


@dataclass(slots=True)
class Signed:
    """See the module. `pieces()` yields the body behind the header, with CRLF line ends."""

    headers: Headers
    pieces: Callable[[], Iterable[bytes]]
    _hashes: dict[bool, bytes] = field(default_factory=dict)
    _pairs: list[_Field] | None = None

    @property
    def signature_fields(self) -> list[HeaderField]:
        """The DKIM signatures, topmost first."""
        return list(self.headers.all("DKIM-Signature"))

    def key_names(self) -> list[str]:
        """The names whose TXT records are needed, each once."""
        fields = self.signature_fields
        wanted = fields if len(fields) <= MOST_SIGNATURES else []
        chain = [each for name in _ARC_FIELDS[:2] for each in self.headers.all(name)]
        if len(chain) <= MOST_ARC_SETS * 2:
            wanted = wanted + chain
        names: dict[str, None] = {}
        for each in wanted:
            try:
                names[_key_name(_tags(each))] = None
            except _Refused:
                continue
        return list(names)

    def verify_dkim(self, keys: Keys) -> list[SignatureResult]:
        """All signatures, in order. Blocks for as long as hashing takes: call it in a thread."""
        fields = self.signature_fields
        if len(fields) > MOST_SIGNATURES:
            return [SignatureResult(result="permerror", reason=f"more than {MOST_SIGNATURES} signatures")]
        return [self._verify_one(each, keys) for each in fields]

    def verify_arc(self, keys: Keys) -> ArcResult:
        """The chain. Blocks for as long as hashing takes: call it in a thread."""
        counts = [len(self.headers.all(name)) for name in _ARC_FIELDS]
        if not any(counts):
            return ArcResult(result="none")
        if max(counts) > MOST_ARC_SETS:
            return ArcResult(result="fail", reason=f"more than {MOST_ARC_SETS} sets")
        if not self._is_well_formed() or any(
            len(each.raw) > MOST_FIELD_BYTES for name in _ARC_FIELDS for each in self.headers.all(name)
        ):
            return ArcResult(result="fail", reason="the header is not well formed")
        chain = _Chain(self, keys)
        try:
            result, sets, reason = cast(Any, chain).verify()
        except _Temporary as error:
            return ArcResult(result="temperror", reason=printable(str(error), 200))
        except Exception as error:  # dkimpy may raise anything on what somebody made up
            return ArcResult(result="fail", reason=printable(f"{type(error).__name__}: {error}", 100))
        sealer = printable(sets[0].get("as-domain", b""), 253).lower() if sets else ""
        if result == dkim.CV_Pass:
            return ArcResult(result="pass", sealer=sealer, sets_count=len(sets))
        return ArcResult(result="fail", reason=printable(reason, 100), sealer=sealer, sets_count=len(sets))

    def _verify_one(self, signature: HeaderField, keys: Keys) -> SignatureResult:
        tags: _Tags = {}
        result, reason = "pass", ""
        try:
            tags = _tags(signature)
            if not self._is_well_formed():
                raise _Refused("permerror", "the header is not well formed")
            self._check(tags, signature, keys)
        except _Refused as refused:
            result, reason = refused.result, str(refused)
        except _Temporary as error:
            result, reason = "temperror", str(error)
        except Exception as error:  # dkimpy may raise anything on what somebody made up
            result, reason = "permerror", f"{type(error).__name__}: {error}"
        return SignatureResult(
            result=result,
            reason=printable(reason, 200),
            domain=_text(tags.get(b"d", b"")).lower(),
            selector=_text(tags.get(b"s", b"")),
            algorithm=_text(tags.get(b"a", b"")),
            start=_text(_BLANKS.sub(b"", tags.get(b"b", b""))[:8]),
        )

    def _check(self, tags: _Tags, signature: HeaderField, keys: Keys) -> None:
        """Raises _Refused unless it passes, _Temporary if nobody can say."""
        try:
            dkim.validate_signature_fields(tags)
        except dkim.ValidationError as error:
            raise _Refused("permerror", str(error)) from error
        signed = _signed_names(tags)
        if b"from" not in signed:
            raise _Refused("permerror", "From is not signed")
        key = _key(tags, keys)
        identity = tags.get(b"i", b"").rpartition(b"@")[2].lower()
        if key.strict_identity and identity not in (b"", tags[b"d"].lower()):
            raise _Refused("permerror", "i= has another domain than d=, which the key forbids")
        # One From more than there is: another one cannot have been added.
        own = (signature.raw.partition(b":")[0].rstrip(), signature.raw.partition(b":")[2])
        if not self.passes(tags, [*signed, b"from"], own, key):
            raise _Refused("fail", "the signature is not that of the header")

    def passes(self, tags: _Tags, signed: list[bytes], own: _Field, key: PublicKey) -> bool:
        """Whether body hash (if there is one) and signature are right. Raises _Refused for the former."""
        try:
            policy = CanonicalizationPolicy.from_c_value(tags.get(b"c", b"simple/simple"))
        except InvalidCanonicalizationPolicyError as error:
            raise _Refused("permerror", "c= is unknown") from error
        if b"bh" in tags:
            relaxed = policy.body_algorithm.name == b"relaxed"
            if self._body_hash(relaxed) != _decoded(tags[b"bh"]):
                raise _Refused("fail", "the body is another than the one that was signed")
        chosen = [*self._select(signed), (own[0], _SIGNATURE.sub(rb"\1", own[1], count=1))]
        pairs = [(name, value) for name, value in policy.canonicalize_headers(chosen)]
        text = b"".join(name + b":" + value for name, value in pairs[:-1])
        text += pairs[-1][0] + b":" + pairs[-1][1].rstrip(b" \t\r\n")
        return key.verifies(_decoded(tags[b"b"]), hashlib.sha256(text).digest())

    def header_pairs(self) -> list[_Field]:
        """The header as dkimpy has it: names and values, the latter with their line ends."""
        if self._pairs is None:
            pairs = [each.raw.partition(b":") for each in self.headers.fields]
            self._pairs = [(name.rstrip(), value) for name, _, value in pairs]
        return self._pairs

    def _select(self, names: list[bytes]) -> list[_Field]:
        """RFC 6376 section 5.4.2: of fields with the same name the lowest first; more than there are: nothing."""
        left: dict[bytes, list[_Field]] = {}
        for pair in self.header_pairs():
            left.setdefault(pair[0].lower(), []).append(pair)
        return [left[name].pop() for name in names if left.get(name)]

    def _body_hash(self, relaxed: bool) -> bytes:
        found = self._hashes.get(relaxed)
        if found is None:
            found = self._hashes[relaxed] = body_hash(self.pieces(), relaxed=relaxed)
        return found

    def _is_well_formed(self) -> bool:
        return all(each.name and each.raw.endswith(b"\r\n") for each in self.headers.fields)


class _Chain(dkim.ARC):
    """dkimpy's chain, over our header, our keys, and our check of each signature."""

    def __init__(self, signed: Signed, keys: Keys) -> None:
        cast(Any, super()).__init__(logger=_SILENT)
        self.headers = [list(pair) for pair in signed.header_pairs()]
        self._signed = signed
        self._keys = keys

    def verify_sig(self, sig: _Tags, include_headers: list[bytes], sig_header: _Field, dnsfunc: Any) -> bool:
        """Whether one signature of the chain is right. Raises _Temporary."""
        try:
            if sig[b"a"] != b"rsa-sha256" or b"l" in sig or len(include_headers) > MOST_SIGNED_FIELDS:
                return False
            names = [name.lower() for name in include_headers]
            extra = [b"from"] if b"from" in names else []
            return self._signed.passes(sig, names + extra, (sig_header[0], sig_header[1]), _key(sig, self._keys))
        except _Refused:
            return False


def _tags(signature: HeaderField) -> _Tags:
    """The tags of a signature. Raises _Refused."""
    if len(signature.raw) > MOST_FIELD_BYTES:
        raise _Refused("permerror", f"a signature of more than {MOST_FIELD_BYTES} bytes")
    try:
        # White space is shortened first: dkimpy's expressions are quadratic in it.
        tags = parse_tag_value(_BLANKS.sub(b" ", signature.raw.partition(b":")[2]))
    except InvalidTagValueList as error:
        raise _Refused("permerror", "the tags cannot be read") from error
    return dict(tags)


def _key_name(tags: _Tags) -> str:
    domain, selector = tags.get(b"d", b""), tags.get(b"s", b"")
    if _DOMAIN.fullmatch(domain) is None or _DOMAIN.fullmatch(selector) is None:
        raise _Refused("permerror", "d= or s= is not a domain name")
    return f"{selector.decode()}._domainkey.{domain.decode()}".lower()


def _signed_names(tags: _Tags) -> list[bytes]:
    names = [each.strip().lower() for each in tags[b"h"].split(b":")]
    if len(names) > MOST_SIGNED_FIELDS:
        raise _Refused("permerror", f"h= has more than {MOST_SIGNED_FIELDS} names")
    return names


def _key(tags: _Tags, keys: Keys) -> PublicKey:
    """The key, after all that forbids to use it. Raises _Refused, _Temporary."""
    if tags[b"a"] == b"rsa-sha1":
        raise _Refused("policy", "rsa-sha1 is not believed")
    if b"l" in tags:
        raise _Refused("policy", "l= is not believed: it leaves room for other text")
    name = _key_name(tags)
    match keys.get(name):
        case Found(records):
            texts = tuple(each for each in records if isinstance(each, bytes))
        case Absent():
            raise _Refused("permerror", f"there is no key {name}")
        case Trouble(reason):
            raise _Temporary(reason)
        case _:
            raise _Temporary(f"nobody looked {name} up")
    try:
        key = read_key(texts)
    except BadKey as bad:
        raise _Refused(bad.result, str(bad)) from bad
    if key.algorithm != tags[b"a"]:
        raise _Refused("permerror", "the key is of another kind than the signature")
    return key


def _decoded(value: bytes) -> bytes:
    try:
        return base64.b64decode(_BLANKS.sub(b"", value), validate=True)
    except binascii.Error as error:
        raise _Refused("permerror", "b= or bh= is not base64") from error


def _text(value: bytes) -> str:
    return printable(value, 253)
