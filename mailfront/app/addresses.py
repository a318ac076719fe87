"""Addresses that the configuration names."""

from mailfront.mail.address import Address, parse_path


def checked_address(text: str) -> Address:
    """The address of a setting. Its syntax was checked when the file was read."""
    address = parse_path(text)
    assert address is not None
    return address
