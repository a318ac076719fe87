"""Body hashes in pieces are those that dkimpy gets from the whole body."""

import hashlib
import itertools

from dkim.canonicalization import Relaxed, Simple
from hypothesis import given
from hypothesis import strategies as st

from mailfront.filters.auth.body_hash import body_hash

_BODIES = st.lists(st.sampled_from([b"a", b" ", b"\t", b"\r\n", b"\r\n\r\n", b"word", b"."]), max_size=24).map(
    lambda parts: b"".join(parts) + b"\r\n" if parts else b""
)


@given(body=_BODIES, places=st.lists(st.integers(0, 60), max_size=6))
def test_pieces_do_not_matter(body: bytes, places: list[int]) -> None:
    """However a body is cut, its hash is that of the library's canonical form."""
    ends = sorted({place % (len(body) + 1) for place in places} | {0, len(body)})
    pieces = [body[start:end] for start, end in itertools.pairwise(ends)]
    for relaxed, canonical in ((False, Simple), (True, Relaxed)):
        expected = hashlib.sha256(canonical.canonicalize_body(body)).digest()  # type: ignore[no-untyped-call]
        assert body_hash(pieces, relaxed=relaxed) == expected
