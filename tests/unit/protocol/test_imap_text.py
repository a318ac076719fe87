"""Reading the lines of an IMAP server."""

from mailfront.protocol.imap_text import body_follows, fetch_uid


def test_what_stands_in_an_open_quote_is_text() -> None:
    """A quote that a server never closes hides the rest of the line: nothing in it is a UID or a message."""
    assert fetch_uid(b'1 FETCH (UID 7 X "a")') == 7
    assert fetch_uid(b'1 FETCH (X "UID 7 )') is None
    assert fetch_uid(b'1 FETCH (X "a\\" UID 7 )') is None
    assert not body_follows(b'1 FETCH (X " BODY[] {7}')
    assert body_follows(b'1 FETCH (X "a\\"" BODY[] {7}')
