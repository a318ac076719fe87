"""What may be shown of text from outside."""

import pytest

from mailfront.base.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\nb\x00c\td", "a??b?c?d"),
        ("\x1b[31mred\x9b0m\x7f", "?[31mred?0m?"),
        ("moc.live\u202egpj\u2066x\u200f", "moc.live?gpj?x?"),
        ("zero\u200bwidth\ufeffsoft\u00adhyphen\u2028", "zero?width?soft?hyphen?"),
        ("\ud800", "?"),
        ("Grüße, 日本, 👍", "Grüße, 日本, 👍"),
        (b"\xff\xfe\r\n", "\ufffd\ufffd??"),
    ],
)
def test_nothing_moves_the_cursor_or_hides(text: str | bytes, shown: str) -> None:
    """Control characters, escape sequences, directions and invisible characters are shown as `?`, letters are not."""
    assert printable(text) == shown


def test_it_is_cut() -> None:
    """Longer text ends in an ellipsis, within the limit."""
    assert printable("x" * 300, 10) == "x" * 9 + "…"
    assert printable(b"x" * 300, 10) == "x" * 9 + "…"
    assert printable("x" * 10, 10) == "x" * 10
