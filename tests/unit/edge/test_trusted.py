"""The attributes of XCLIENT and XFORWARD."""

import pytest

from mailfront.edge.trusted import ForwardedClient, read_attributes


def test_what_is_read() -> None:
    """Address in canonical form, port, and HELO decoded from xtext and made printable."""
    read = read_attributes("XCLIENT", "addr=IPV6:2001:DB8::0:1 PORT=25 HELO=a+0Db NAME=x+3Dy PROTO=ESMTP")
    assert read == ForwardedClient(ip="2001:db8::1", port=25, helo="a?b")


def test_what_is_not_known_stays_open() -> None:
    """[UNAVAILABLE] is no value, and a later command adds to an earlier one."""
    first = read_attributes("XFORWARD", "ADDR=192.0.2.1 PORT=[UNAVAILABLE]")
    second = read_attributes("XFORWARD", "PORT=7 SOURCE=LOCAL")
    assert first is not None
    assert second is not None
    assert first.updated(second) == ForwardedClient(ip="192.0.2.1", port=7)


@pytest.mark.parametrize(
    "argument",
    [None, "", "ADDR", "ADDR=", "ADDR=x", "PORT=x", "PORT=70000", "IDENT=x", "FOO=x", "HELO=a+2", "HELO=" + "a" * 256],
)
def test_what_is_malformed(argument: str | None) -> None:
    """Unknown attributes and bad values are refused as a whole."""
    assert read_attributes("XCLIENT", argument) is None
