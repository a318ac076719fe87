"""Filter templates: what is refused, what is filled in, what a snapshot answers."""

import pytest

from mailfront.directory.filter_template import FilterTemplate, escape_value
from mailfront.mail.address import Address

ANA = Address("ana", "example.edu")
BOTH = "(|(mail={address})(mailAlternateAddress={address}))"


def test_placeholders_are_filled() -> None:
    """All three placeholders stand for their part of the address."""
    template = FilterTemplate("(&(objectClass=person)(|(mail={address})(cn={local},{domain})))")
    assert template.fill(ANA) == "(&(objectclass=person)(|(mail=ana@example.edu)(cn=ana,example.edu)))"


def test_a_hostile_value_stays_inside_its_comparison() -> None:
    """Every character with a meaning in a filter is written as a hexadecimal escape."""
    filled = FilterTemplate("(mail={address})").fill(Address("*)(uid=*))(|(uid=*\\\x00é", "example.edu"))
    assert filled == ("(mail=\\2a\\29\\28uid\\3d\\2a\\29\\29\\28\\7c\\28uid\\3d\\2a\\5c\\00\\c3\\a9@example.edu)")


def test_a_placeholder_in_a_value_is_not_filled_again() -> None:
    """A local part that looks like a placeholder is text."""
    assert FilterTemplate("(uid={local})").fill(Address("{domain}", "x.org")) == "(uid=\\7bdomain\\7d)"


def test_a_lone_surrogate_is_escaped_and_does_not_fail() -> None:
    """What cannot be UTF-8 still makes a filter, one that matches nobody."""
    assert escape_value("\ud800") == "\\ed\\a0\\80"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected '('"),
        ("mail={address}", "expected '('"),
        ("(mail={address}", "not closed"),
        ("(mail={address}))", "behind the end"),
        ("(mail={address})(uid=x)", "behind the end"),
        ("(|)", "has 0 parts"),
        ("(!(mail={address})(uid=x))", "has 2 parts"),
        ("(&(mail={address})", "expected '(' or ')'"),
        ("(mail)", "not a comparison"),
        ("(mail=)", "not a comparison"),
        ("(uid=static)", "no placeholder"),
        ("(uid={login})", "{login} is not known"),
        ("(uid={})", "{} is not known"),
        ("(uid={local)", "brace"),
        ("({local}=x)", "not a comparison"),
        ("(uid=a(b)c{local})", "not closed"),
        ("(" + "&(" * 30 + "uid={local}" + ")" * 31, "deeper"),
        ("(uid={local}" + "x" * 5000 + ")", "longer"),
    ],
)
def test_a_broken_template_is_refused_with_the_reason(text: str, said: str) -> None:
    """Whoever wrote the filter learns what is wrong with it when the file is checked."""
    with pytest.raises(ValueError) as caught:
        FilterTemplate(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "presence"),
    [
        (BOTH, "(|(mail=*)(mailalternateaddress=*))"),
        ("(&(objectClass=person)(uid={local}))", "(&(objectclass=person)(uid=*))"),
        ("(mail={local}@{domain})", "(mail=*@*)"),
        ("(mail=*{address}*)", "(mail=*)"),
    ],
)
def test_the_presence_filter_finds_whom_any_address_would_find(text: str, presence: str) -> None:
    """Each placeholder becomes a wildcard."""
    assert FilterTemplate(text).presence() == presence


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOTH, ""),
        ("(&(objectClass=person)(!(status=gone))(mail={address}))", ""),
        ("(!(mail={address}))", "under '!'"),
        ("(mail=*{address})", "not of the form"),
        ("(mail~={address})", "not of the form"),
        ("(mail:caseExactMatch:={address})", "not of the form"),
        ("(|(mail={address})(objectClass=catchall))", "with and without"),
    ],
)
def test_a_template_that_a_snapshot_cannot_answer_says_so(text: str, problem: str) -> None:
    """A snapshot is refused where it would answer otherwise than the server."""
    found = FilterTemplate(text).snapshot_problem
    assert problem in found
    assert bool(found) == bool(problem)


def test_an_entry_matches_by_any_of_its_addresses_and_any_case() -> None:
    """What LDAP compares without case, the snapshot does too."""
    template = FilterTemplate(BOTH)
    entry = {"mail": ("Ana@Example.EDU",), "mailalternateaddress": ("a.b@example.edu",)}
    assert template.matches(entry, ANA)
    assert template.matches(entry, Address("a.b", "example.edu"))
    assert not template.matches(entry, Address("b.a", "example.edu"))
    assert set(template.entry_keys(entry)) & set(template.keys(ANA)) == {("mail", "ana@example.edu")}


def test_all_parts_of_a_conjunction_must_match() -> None:
    """`&` over two placeholders needs both."""
    template = FilterTemplate("(&(uid={local})(associatedDomain={domain}))")
    assert template.matches({"uid": ("ana",), "associateddomain": ("example.edu",)}, ANA)
    assert not template.matches({"uid": ("ana",), "associateddomain": ("example.org",)}, ANA)


def test_an_escape_in_the_template_stands_for_its_character() -> None:
    """`\\2b` in the template is compared as `+`."""
    assert list(FilterTemplate("(uid=x\\2b{local})").keys(ANA)) == [("uid", "x+ana")]
