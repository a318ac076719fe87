"""Signed messages and their keys, from the source distribution of dkimpy (not part of this repository) and RFC 8463.

dkimpy's test data holds the example of RFC 6376 and RFC 8463 signed by two keys, and a message that Exim signed.
"""

from typing import Final

from tests.support.spf_suite import source_file

_SHA256: Final = "b5f60fb47bbf5d8d762f134bcea0c388eba6b498342a682a21f1686545094b77"
RFC8463_ED25519: Final = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
"""The key of RFC 8463 appendix A.2, which is also RFC 8032 section 7.1, test 1."""


def dkimpy_file(name: str) -> bytes:
    """A file of dkimpy's test data."""
    return source_file("dkimpy==1.1.8", _SHA256, f"dkimpy-1.1.8/dkim/tests/data/{name}")
