"""Requests in BER, written by us: the same bytes as ldap3 makes of the same question, whatever is asked."""

from typing import Any

import ldap3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldap3.operation.bind import bind_operation
from ldap3.operation.search import search_operation
from ldap3.protocol.rfc4511 import LDAPMessage, MessageID, ProtocolOp
from ldap3.utils.asn1 import encode  # type: ignore[attr-defined]

from mailfront.directory.filter_template import escape_value
from mailfront.directory.ldap_wire import BASE, SUBTREE, bind_request, search_request

numbers = st.integers(min_value=1, max_value=2**31 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=200)
attributes = st.from_regex(r"[A-Za-z][A-Za-z0-9\-]{0,20}", fullmatch=True)
values = texts.filter(bool).map(escape_value)
substrings = st.lists(values | st.just(""), min_size=2, max_size=4).map("*".join).filter(lambda text: text.strip("*"))
items = st.builds(
    "({}{}{})".format,
    attributes,
    st.sampled_from(("=", "~=", ">=", "<=", ":caseExactMatch:=", ":dn:2.5.13.5:=")),
    values,
) | st.builds("({}={})".format, attributes, st.just("*") | substrings)
filters = st.recursive(
    items,
    lambda below: (
        st.builds("(!{})".format, below)
        | st.builds(
            lambda operator, parts: f"({operator}{''.join(parts)})",
            st.sampled_from("&|"),
            st.lists(below, min_size=1, max_size=3),
        )
    ),
    max_leaves=6,
)


def _message(number: int, name: str, operation: Any) -> bytes:
    message = LDAPMessage()
    message["messageID"] = MessageID(number)
    message["protocolOp"] = ProtocolOp().setComponentByName(name, operation)
    return bytes(encode(message))


@given(numbers, texts.filter(bool), st.binary(min_size=1, max_size=300))
def test_a_bind(number: int, dn: str, password: bytes) -> None:
    """Any name, any password."""
    wanted = bind_operation(3, ldap3.SIMPLE, dn, password, auto_encode=False)
    assert bind_request(number, dn, password) == _message(number, "bindRequest", wanted)


@given(numbers, texts, st.sampled_from((BASE, SUBTREE)), filters, st.lists(attributes, min_size=1, max_size=20))
def test_a_search(number: int, base: str, scope: int, search_filter: str, names: list[str]) -> None:
    """Any filter that a template can become."""
    wanted = search_operation(
        base, search_filter, {BASE: ldap3.BASE, SUBTREE: ldap3.SUBTREE}[scope], ldap3.DEREF_NEVER, names, 10, 5, False,
        auto_escape=False, auto_encode=False,
    )  # fmt: skip
    made = search_request(number, base, scope, search_filter, names, size_limit=10, time_limit_s=5)
    assert made == _message(number, "searchRequest", wanted)


@pytest.mark.parametrize(
    "text", ["", "uid=a", "(uid=a", "(uid)", "(&(uid=a)", "(uid=a)(uid=b)", "(uid=a)x", "(&uid=a)"]
)
def test_what_is_no_filter_is_not_sent(text: str) -> None:
    """A mistake of ours would be another question."""
    with pytest.raises(ValueError, match="not a filter"):
        search_request(1, "dc=x", SUBTREE, text, ("uid",), size_limit=1, time_limit_s=1)
