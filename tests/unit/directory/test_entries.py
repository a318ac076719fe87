"""From entries to records, and which entries are refused."""

from typing import Any

import pytest

from mailfront.directory.answers import (
    Audience,
    ByDn,
    ByUid,
    CannotSay,
    DirectoryRecord,
    Found,
    Group,
    NoSuch,
    Posters,
    Source,
    Status,
)
from mailfront.directory.entries import Entry, EntryReader, entry_from_wire
from mailfront.directory.settings import LdapSettings
from mailfront.mail.address import Address

ANA = Address("ana", "example.edu")


def reader(**changes: Any) -> EntryReader:
    """A reader with the default attributes and the changes given."""
    return EntryReader(
        LdapSettings.model_validate({"kind": "ldap", "urls": ["ldap://x"], "base": "dc=example,dc=edu"} | changes)
    )


def entry(name: str = "ana", **values: str | tuple[str, ...]) -> Entry:
    """An entry whose attributes default to those of a person."""
    merged: dict[str, str | tuple[str, ...]] = {
        "objectclass": "inetOrgPerson",
        "uid": name,
        "mail": f"{name}@example.edu",
        **{key.lower(): value for key, value in values.items()},
    }
    return Entry(f"cn={name}", {key: (value,) if isinstance(value, str) else value for key, value in merged.items()})


def found(answer: object) -> DirectoryRecord:
    """The record of a Found."""
    assert isinstance(answer, Found), answer
    return answer.record


def test_a_person_becomes_a_record() -> None:
    """The mailbox keeps its spelling, the key does not."""
    record = found(reader().answer([entry("Ana")], ANA))
    assert record == DirectoryRecord(
        key=record.key, mailbox="Ana", address=Address("Ana", "example.edu"), classes=("inetorgperson",)
    )
    assert record.key == "ana@example.edu"


def test_no_entry_is_no_such_address() -> None:
    """An empty result of a complete search is the directory's own word."""
    assert reader().answer([], ANA) == NoSuch(Source.LDAP)


def test_the_id_makes_the_key_where_there_is_one() -> None:
    """With an id a renamed user keeps the key; an entry without it falls back to the mailbox."""
    with_id = reader(attributes={"id": "entryUUID"}, one_namespace=True)
    assert found(with_id.answer([entry(entryUUID="AB-12")], ANA)).key == "ab-12"
    assert found(with_id.answer([entry()], ANA)).key == "ana"


def test_the_key_does_not_depend_on_the_address_that_was_asked() -> None:
    """An alias in another domain leads to the same mailbox."""
    one = found(reader().answer([entry()], ANA))
    other = found(reader().answer([entry()], Address("alias", "other.example")))
    assert one == other


@pytest.mark.parametrize(
    ("value", "status", "over_quota"),
    [
        ("active", Status.ACTIVE, False),
        ("Suspended", Status.SUSPENDED, False),
        ("OVERQUOTA", Status.ACTIVE, True),
        ("anything", Status.ACTIVE, False),
    ],
)
def test_the_status_attribute(value: str, status: Status, over_quota: bool) -> None:
    """Status values are compared without case; an unknown one is active."""
    record = found(reader().answer([entry(mailUserStatus=value)], ANA))
    assert (record.status, record.over_quota) == (status, over_quota)


def test_forwards_and_groups_are_redirected() -> None:
    """An entry whose mail goes elsewhere has no mailbox here, with or without a uid."""
    assert found(reader().answer([entry(mailForwardingAddress="x@example.org")], ANA)).redirected
    group = entry(objectClass=("top", "groupOfNames"), uid=())
    record = found(reader().answer([group], ANA))
    assert record.redirected
    assert (record.key, record.mailbox) == ("", "")


def test_the_host_is_read_only_if_it_is_configured() -> None:
    """Without `attributes.host` the hash alone places mailboxes."""
    assert found(reader().answer([entry(mailHost="store2")], ANA)).host is None
    assert found(reader(attributes={"host": "mailHost"}).answer([entry(mailHost="store2")], ANA)).host == "store2"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (entry(uid=()), "has no attribute uid"),
        (entry(uid=("ana", "ana2")), "2 values of uid"),
        (entry(uid="ana\r\nRCPT TO:<x>"), "not usable"),
        (entry(uid="a b"), "not usable"),
        (entry(uid="x" * 256), "not usable"),
        (entry(uid="a\\b"), "not usable"),
        (entry(uid="a\x9b31m"), "not usable"),
        (entry(uid="a\u202eb"), "not usable"),
        (entry(mail="ana\x1b[2J@example.edu"), "no address in mail"),
        (entry(mail=()), "no address in mail"),
        (entry(mail="not an address"), "no address in mail"),
        (entry(mail=("ana@a.example", "ana@b.example")), "mail in 2 domains"),
    ],
)
def test_an_entry_that_cannot_be_understood_is_not_guessed_at(bad: Entry, said: str) -> None:
    """The address gets a temporary error, and the alarm names the entry and the attribute."""
    answer = reader().answer([bad], ANA)
    assert isinstance(answer, CannotSay)
    assert answer.alarm == "directory.bad_entry"
    assert said in answer.reason
    assert "cn=ana" in answer.reason
    assert "\r" not in answer.reason


@pytest.mark.parametrize("attribute", ["id", "host"])
@pytest.mark.parametrize("value", ["x\r\ny", "\x1b]0;x\x07", "a\u2066b", "x" * 256])
def test_what_is_stored_and_shown_can_be_shown(attribute: str, value: str) -> None:
    """A key or a host that would move the cursor of whoever looks at it makes its entry a bad one."""
    answer = reader(attributes={attribute: "x"}).answer([entry(x=value)], ANA)
    assert isinstance(answer, CannotSay)
    assert answer.alarm == "directory.bad_entry"


def test_one_namespace_needs_no_primary_domain() -> None:
    """Where values are unique, several domains or none are fine."""
    several = entry(mail=("ana@b.example", "ana@a.example"))
    assert found(reader(one_namespace=True).answer([several], ANA)).address == Address("ana", "a.example")
    assert found(reader(one_namespace=True).answer([entry(mail=())], ANA)).address == ANA


def test_a_primary_address_without_its_quotes_counts() -> None:
    """Directories hold strange local parts unquoted."""
    record = found(reader().answer([entry(mail="paren)(uid=*@example.edu")], ANA))
    assert record.address == Address("paren)(uid=*", "example.edu")


def test_two_mailboxes_for_one_address_are_never_guessed() -> None:
    """Neither is taken; the alarm names both entries."""
    answer = reader().answer([entry("ana"), entry("bob")], ANA)
    assert isinstance(answer, CannotSay)
    assert answer.alarm == "directory.ambiguous"
    assert "cn=ana; cn=bob" in answer.reason


def test_two_entries_that_agree_are_one_answer() -> None:
    """The same mailbox found twice is no contradiction."""
    twice = [entry(), Entry("cn=copy", entry().values)]
    assert found(reader().answer(twice, ANA)).mailbox == "ana"


def test_one_of_two_entries_suspended_is_a_contradiction() -> None:
    """Entries that differ in anything but their class are not the same."""
    answer = reader().answer([entry(), entry(mailUserStatus="suspended")], ANA)
    assert isinstance(answer, CannotSay)


def test_values_that_are_not_utf8_are_left_out() -> None:
    """A photograph in an attribute harms nobody."""
    decoded = entry_from_wire("cn=x", {"UID": [b"ana", b"\xff\xfe"]})
    assert decoded.values == {"uid": ("ana",)}


def test_all_attributes_that_are_read_are_asked_for() -> None:
    """Operational attributes come only when they are named."""
    assert set(reader(attributes={"id": "entryUUID"}).wanted) == {
        "entryuuid",
        "mail",
        "member",
        "memberuid",
        "mgrpallowedbroadcaster",
        "mgrperrorsto",
        "mgrprfc822mailmember",
        "rfc822mailmember",
        "uniquemember",
        "mailforwardingaddress",
        "mailuserstatus",
        "objectclass",
        "uid",
    }


def test_a_group_has_members_an_owner_and_posters() -> None:
    """Members by DN, by login name and by address, each kind from its own attributes; `mailto:` is understood."""
    group = entry(
        objectClass="mailGroup",
        uid=(),
        mail="all@example.edu",
        member=("uid=ana,dc=x", "uid=ben,dc=x"),
        memberUid="cleo",
        mgrpRFC822MailMember="Dora@example.org",
        mgrpErrorsTo="mailto:owner@example.edu",
        mgrpAllowedBroadcaster=("members", "@example.net", "mailto:Boss@example.edu", "cn=Root, dc=x"),
    )
    record = found(reader().answer([group], Address("all", "example.edu")))
    assert record.group == Group(
        members=(
            ByDn("uid=ana,dc=x"),
            ByDn("uid=ben,dc=x"),
            ByUid("cleo"),
            Address("dora", "example.org"),
        ),
        owner=Address("owner", "example.edu"),
        posters=Posters(
            audiences=frozenset({Audience.MEMBERS}),
            addresses=frozenset({"boss@example.edu"}),
            domains=frozenset({"example.net"}),
            entries=frozenset({"cn=root,dc=x"}),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mailForwardingAddress": "not an address"}, "is not an address"),
        ({"objectClass": "mailGroup", "rfc822MailMember": "nobody"}, "is not an address"),
        ({"objectClass": "mailGroup", "mgrpErrorsTo": "somebody"}, "neither an address nor the name"),
        ({"objectClass": "mailGroup", "mgrpAllowedBroadcaster": "everyone"}, "neither an address nor the name"),
        ({"objectClass": "group", "member;range=0-1499": "cn=a"}, "only a part of member"),
    ],
)
def test_a_list_or_a_forward_is_never_served_in_part(changes: dict[str, Any], said: str) -> None:
    """A value that means nothing, or a list that the server cuts, makes the whole entry unusable until it is mended."""
    answer = reader().answer([entry(**changes)], ANA)
    assert isinstance(answer, CannotSay)
    assert answer.alarm == "directory.bad_entry"
    assert said in answer.reason


def test_a_forward_keeps_a_copy_if_an_attribute_says_so() -> None:
    """`attributes.forward_copy` with one of `copy_values`; without it the mailbox gets nothing."""
    forward = entry(mailForwardingAddress="x@example.org", mailDeliveryOption="Mailbox")
    assert not found(reader().answer([forward], ANA)).keeps_copy
    record = found(reader(attributes={"forward_copy": "mailDeliveryOption"}).answer([forward], ANA))
    assert (record.keeps_copy, record.mailbox) == (True, "ana")


def test_a_member_without_mail_is_nobody() -> None:
    """A service account in a group has neither address nor mailbox: it is left out, and the list goes on."""
    assert isinstance(reader().answer([entry(mail=(), uid="svc")], ByDn("cn=ana")), NoSuch)
    assert isinstance(reader().answer([entry(mail=(), uid="svc")], ANA), CannotSay)
