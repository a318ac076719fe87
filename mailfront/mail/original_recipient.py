"""ORCPT: who a recipient was in the first place, written as RCPT writes it (RFC 3461 section 4.2, RFC 6533)."""

_AS_THEMSELVES = frozenset(map(chr, range(33, 127))) - {"+", "="}


def original_recipient(address: str) -> str:
    """The ORCPT of a recipient that came without one: its type, and the address in xtext.

    An address that is not ASCII gets the type `utf-8`, with what is not ASCII as `\\x{HEX}` (RFC 6533 section 3).
    """
    if address.isascii():
        return "rfc822;" + "".join(each if each in _AS_THEMSELVES else f"+{ord(each):02X}" for each in address)
    return "utf-8;" + "".join(
        each if each in _AS_THEMSELVES and each != "\\" else f"\\x{{{ord(each):X}}}" for each in address
    )
