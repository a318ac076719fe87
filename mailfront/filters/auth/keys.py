"""Public keys of DKIM and ARC: from a DNS record to a key of `cryptography` (RFC 6376 section 3.6.1, RFC 8301, 8463).

What a record must be here: version DKIM1 or none, RSA of 1,024 to 8,192 bits or Ed25519, for e-mail, for SHA-256. All
else is a `BadKey`, with the result that RFC 8601 has for it.
"""

import base64
import binascii
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from dkim.crypto import UnparsableKeyError, parse_public_key
from dkim.util import InvalidTagValueList, parse_tag_value

SMALLEST_RSA_BITS = 1024
LARGEST_RSA_BITS = 8192
MOST_RECORD_BYTES = 8192


class BadKey(Exception):
    """A key that cannot be used. `result`: `permerror`, or `policy` for what we do not want to believe."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key; `strict_identity` is the flag `s`: i= must have exactly the domain of d=."""

    key: RSAPublicKey | Ed25519PublicKey
    strict_identity: bool = False

    @property
    def algorithm(self) -> bytes:
        """The a= that it belongs to."""
        return b"rsa-sha256" if isinstance(self.key, RSAPublicKey) else b"ed25519-sha256"

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Whether `signature` is this key's over a SHA-256 digest."""
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, digest, padding.PKCS1v15(), Prehashed(SHA256()))
            else:
                self.key.verify(signature, digest)
        except InvalidSignature:
            return False
        return True


def read_key(records: tuple[bytes, ...]) -> PublicKey:
    """The key in the TXT records of a selector. Raises BadKey."""
    fitting = [each for each in records if b"p=" in each]
    if not fitting:
        raise BadKey("permerror", "no key in the record")
    record = fitting[0]
    if len(record) > MOST_RECORD_BYTES:
        raise BadKey("permerror", "the key's record is too long")
    try:
        tags = parse_tag_value(record)
    except InvalidTagValueList as error:
        raise BadKey("permerror", "the key's record cannot be read") from error
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise BadKey("permerror", "the key is of another version")
    if not {b"*", b"email"} & set(_list(tags.get(b"s", b"*"))):
        raise BadKey("permerror", "the key is not for e-mail")
    if b"sha256" not in _list(tags.get(b"h", b"sha256")):
        raise BadKey("permerror", "the key is not for SHA-256")
    encoded = b"".join(tags.get(b"p", b"").split())
    if not encoded:
        raise BadKey("permerror", "the key is revoked")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise BadKey("permerror", "the key is not base64") from error
    return PublicKey(_key(tags.get(b"k", b"rsa"), raw), strict_identity=b"s" in _list(tags.get(b"t", b"")))


def _list(value: bytes) -> list[bytes]:
    return [each.strip() for each in value.split(b":")]


def _key(kind: bytes, raw: bytes) -> RSAPublicKey | Ed25519PublicKey:
    try:
        if kind == b"ed25519":
            return Ed25519PublicKey.from_public_bytes(raw)
        if kind != b"rsa":
            raise BadKey("permerror", "the key is of an unknown kind")
        key = _rsa(raw)
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm, UnparsableKeyError) as error:
        raise BadKey("permerror", "the key cannot be read") from error
    if not SMALLEST_RSA_BITS <= key.key_size <= LARGEST_RSA_BITS:
        raise BadKey("policy", f"an RSA key of {key.key_size} bits")
    return key


def _rsa(raw: bytes) -> RSAPublicKey:
    try:
        key = load_der_public_key(raw)
    except ValueError:
        # Not in its envelope: a bare RSAPublicKey, which is what RFC 6376 has and many publish.
        numbers = parse_public_key(raw)
        return RSAPublicNumbers(numbers["publicExponent"], numbers["modulus"]).public_key()
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not RSA")
    return key
