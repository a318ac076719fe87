"""What a person sees."""

import io

import pytest

from mailfront.demo.screen import Screen


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """As a terminal answers."""
        return True


def tell(screen: Screen) -> None:
    """Use everything once."""
    screen.step("First")
    screen.row("to", "ana@example.edu")
    screen.row("", "and others")
    screen.checked("a long claim " * 12)
    screen.failed("something else")
    screen.table([("name", "home"), ("ana", "store1"), ("zoe", "2")])


def test_plain_text_without_a_terminal() -> None:
    """Numbered, aligned, at most 100 columns, no escape sequences."""
    stream = io.StringIO()
    tell(Screen(stream))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.startswith(
        "\n1. First\n  to         ana@example.edu\n             and others\n  checked    a long claim"
    )
    assert "\n             claim a long" in text
    assert text.endswith("  FAILED     something else\n  name  home\n  ana   store1\n  zoe   2\n")
    assert max(len(line) for line in text.splitlines()) <= 100


def test_colours_on_a_terminal_change_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal there are colours, and with NO_COLOR there are none."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    tell(Screen(coloured))
    monkeypatch.setenv("NO_COLOR", "1")
    tell(Screen(plain))
    assert "\x1b[32mchecked" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()
