"""`mailfront demo` without its extra."""

import importlib.util

import pytest

from mailfront.demo import main


def test_without_pymap_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The missing extra is named in one line, and the exit status is 1."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(once=True) == 1
    assert capsys.readouterr().err == (
        "mailfront: the demo's storage nodes need pymap; install it: pip install 'mailfront[demo]'\n"
    )
