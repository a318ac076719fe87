"""Names are no weapons: whatever a local part holds, it stays text in filters, keys and snapshots."""

import unicodedata
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ldap3.operation import search as ldap3_search
from ldap3.protocol import convert as ldap3_convert

from mailfront.directory.canonical import can_exist, canonical_address, canonical_text, lookup_key
from mailfront.directory.filter_template import FilterTemplate, escape_value
from mailfront.mail.address import Address

# ldap3's own reading of a filter; not typed.
search_operation: Any = ldap3_search
convert: Any = ldap3_convert

SYNTAX = st.sampled_from([*"*()\\&|!=~<>:\x00 +,;\"'#/{}\r\n%", "\\2a", "*)(uid=*))(|(uid=*", "{domain}", "ａ"])
NAMES = st.lists(SYNTAX | st.characters(exclude_categories=["Cs"]), max_size=20).map("".join)
unhurried = settings(deadline=None)  # the machine is shared: a slow example is no failure
TEMPLATE = FilterTemplate("(&(objectClass=person)(|(mail={address})(uid={local})))")


@unhurried
@given(NAMES)
def test_an_escaped_value_is_read_back_as_itself(value: str) -> None:
    """What the server receives is the value, byte for byte."""
    assert convert.prepare_filter_for_sending(escape_value(value)) == value.encode()


@unhurried
@given(NAMES, NAMES)
def test_no_name_changes_the_shape_of_a_filter(local: str, domain: str) -> None:
    """The parsed filter has the template's three comparisons, equality all of them, with the name as their value."""
    root = search_operation.parse_filter(TEMPLATE.fill(Address(local, domain)), None, False, False, None, False)
    conjunction = search_operation.compile_filter(root.elements[0])["and"]
    assert len(conjunction) == 2
    either = conjunction[1]["or"]
    assert [either[number].getName() for number in range(len(either))] == ["equalityMatch", "equalityMatch"]
    values = [bytes(either[number]["equalityMatch"]["assertionValue"]) for number in range(2)]
    assert values == [f"{local}@{domain}".encode(), local.encode()]


@unhurried
@given(NAMES)
def test_canonical_text_is_a_fixed_point(text: str) -> None:
    """Making it canonical twice changes nothing, and it is NFC."""
    once = canonical_text(text)
    assert canonical_text(once) == once
    assert unicodedata.is_normalized("NFC", once)


@unhurried
@given(NAMES, NAMES)
def test_one_key_means_one_question(local: str, other: str) -> None:
    """Two spellings share a key exactly if the directory is asked the same."""
    first, second = Address(local, "x.org"), Address(other, "x.org")
    assert (lookup_key(first) == lookup_key(second)) == (canonical_address(first) == canonical_address(second))


@unhurried
@given(NAMES)
def test_what_can_exist_survives_what_ldap_does_to_strings(local: str) -> None:
    """A name that may be asked for is not another name after compatibility folding, and has no stray space."""
    address = Address(local, "x.org")
    if can_exist(address):
        key = canonical_text(local)
        assert unicodedata.normalize("NFKC", key) == key
        assert local.isprintable()
        assert local == " ".join(local.split(" ")).strip()


@unhurried
@given(NAMES)
def test_a_name_matches_its_own_entry_in_a_snapshot_and_no_other(local: str) -> None:
    """The snapshot compares text, it evaluates nothing."""
    template, address = FilterTemplate("(uid={local})"), Address(local, "x.org")
    assert template.matches({"uid": (local,)}, address)
    assert template.matches({"uid": ("somebody",)}, address) == (canonical_text(local) == "somebody")
