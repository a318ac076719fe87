"""The reference pages of events and metrics say what the program declares."""

from pathlib import Path

import pytest

from mailfront.observe import events, meters, reference

DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference"


@pytest.mark.parametrize("page", sorted(reference.PAGES))
def test_page_is_what_the_program_says(page: str) -> None:
    """The committed page equals the generated one."""
    remedy = f"run: python -m mailfront.observe.reference {page} > docs/reference/{page}.md"
    assert (DOCS / f"{page}.md").read_text() == reference.PAGES[page](), remedy


def test_every_declaration_is_on_its_page() -> None:
    """No event, field or metric is missing."""
    events_page, metrics_page = reference.render_events(), reference.render_metrics()
    for kind in events.CATALOGUE.values():
        assert f"## `{kind.name}`" in events_page
        assert all(f"- `{field}`: " in events_page for field in kind.fields)
    assert all(f"**`{name}`**" in metrics_page for name in meters.CATALOGUE)


def test_a_wrong_page_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the name of a page the command says how it is used, and exits 2."""
    assert reference.main(["errors"]) == 2
    assert "events|metrics" in capsys.readouterr().err
