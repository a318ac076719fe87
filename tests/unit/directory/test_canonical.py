"""One form per address."""

import pytest

from mailfront.directory.canonical import can_exist, canonical_address, lookup_key, mailbox_key
from mailfront.mail.address import Address


def test_case_does_not_make_another_address() -> None:
    """Two spellings that differ in case have one key."""
    assert lookup_key(Address("Ana.B", "example.edu")) == lookup_key(Address("aNA.b", "example.edu"))


def test_two_people_whose_names_only_casefold_alike_keep_two_keys() -> None:
    """The key is not coarser than the directory: sharp s is not double s."""
    assert lookup_key(Address("straße", "example.edu")) != lookup_key(Address("strasse", "example.edu"))


def test_decomposed_and_composed_letters_are_one_address() -> None:
    """The key is NFC."""
    assert lookup_key(Address("mu\u0308ller", "example.edu")) == "m\u00fcller@example.edu"


def test_what_the_directory_is_asked_has_the_key_of_what_the_client_wrote() -> None:
    """One cache key stands for one query."""
    address = Address("MÜLLER", "example.edu")
    assert lookup_key(canonical_address(address)) == lookup_key(address)


@pytest.mark.parametrize(
    "local",
    [
        "ａｎａ",  # full width
        "ﬁlip",  # ligature
        "a\u00adna",  # soft hyphen
        "a\u200dna",  # zero-width joiner
        "a\ufe00na",  # variation selector, printable for Python
        "a\u034fna",  # combining grapheme joiner
        "\u202eana",  # right-to-left override
        "ana²",
        " ana",
        "ana ",
        "a  b",
        "ana\x00",
        "ana\r\nx",
        "",
        "a" * 65,
        "ü" * 33,
        "ana\ud800",
    ],
)
def test_a_spelling_that_ldap_would_fold_into_another_cannot_exist(local: str) -> None:
    """Look-alikes, invisible characters, stray spaces and over-long names are refused before any server is asked."""
    assert not can_exist(Address(local, "example.edu"))


@pytest.mark.parametrize("local", ["ana", "Ana", "müller", "анна", "o'brien", "a b", "*", "(x)", "\\", "名前"])
def test_ordinary_and_strange_but_stable_names_can_exist(local: str) -> None:
    """What LDAP compares as it stands may be asked for."""
    assert can_exist(Address(local, "example.edu"))


def test_an_over_long_or_empty_domain_cannot_exist() -> None:
    """Nobody is asked for a domain that no directory can hold."""
    assert not can_exist(Address("ana", ""))
    assert not can_exist(Address("ana", "x" * 256))


def test_the_mailbox_key_has_the_domain_unless_values_are_unique() -> None:
    """The same mailbox name in two domains is two mailboxes, unless the directory has one namespace."""
    assert mailbox_key("Info", "A.example", one_namespace=False) == "info@a.example"
    assert mailbox_key("Info", "b.example", one_namespace=True) == "info"
