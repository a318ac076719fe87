"""What verbs print: safe for terminals and for programs."""

import json

import pytest

from mailfront.cli import output


def test_a_bar_is_as_long_as_its_share() -> None:
    """Eighths of a character are drawn; nothing is drawn for nothing."""
    assert output.bar(10, 10, 8) == "█" * 8
    assert output.bar(5, 10, 8) == "████"
    assert output.bar(0, 10, 8) == ""
    assert output.bar(1, 0, 8) == ""
    assert len(output.bar(1, 100, 8)) == 1


def test_rows_on_a_pipe_are_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    """A tab or a line end inside a value does not make another column or row."""
    output.table(("a", "b"), [("x\ty", "line\nend"), (None, True)])
    assert capsys.readouterr().out == "a\tb\nx?y\tline?end\n\tyes\n"


def test_control_characters_never_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply of a node cannot clear the screen or change the colours, nor can it use rich's markup."""
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    output.table(("reply",), [("[red]\x1b[2J\x07\u009b31m",)])
    output.facts([("reply", "\x1b[2Jx")])
    printed = capsys.readouterr().out
    assert "[red]" in printed
    for hostile in ("\x1b[2J", "\x07", "\u009b"):
        assert hostile not in printed


def test_json_keeps_its_value_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """What a terminal would obey is escaped; a program reads the same text as before."""
    value = {"reply": "\x1b[2J\x7f\u009b31m \u202egpj\u2028 \U000e0001 Grüße 日本", "b": [1, "x\ty"]}
    output.show_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert all(line.isprintable() for line in printed.splitlines())
    assert "Grüße 日本" in printed


def test_empty_facts_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is known is shown; zero is known."""
    output.facts([("a", ""), ("b", None), ("c", 0), ("d", [])])
    assert capsys.readouterr().out == "c: 0\n"
