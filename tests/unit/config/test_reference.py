"""The reference page is what the models say."""

from pathlib import Path

from mailfront.config import reference

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


def test_the_page_is_up_to_date() -> None:
    """Run `python -m mailfront.config.reference > docs/reference/settings.md` if this fails."""
    assert PAGE.read_text() == reference.render()


def test_every_setting_is_explained() -> None:
    """No entry of the page lacks its sentence."""
    lines = reference.render().splitlines()
    entries = [number for number, line in enumerate(lines) if line.startswith("- **`")]
    assert entries
    assert [lines[number] for number in entries if not lines[number + 1].strip()] == []
