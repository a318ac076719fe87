"""`[[filter]]` tables: every mistake is reported, each at its place."""

import pytest

from mailfront.filters.order import filter_problems, in_order
from mailfront.filters.registry import found
from mailfront.filters.settings import FilterSettings
from tests.unit.config.test_load import GOOD, problems


def table(name: str, *after: str, **settings: object) -> FilterSettings:
    kind = found().kinds["clamd"]
    return FilterSettings(name=name, kind="clamd", after=after, settings=kind.settings(), **settings)  # type: ignore[arg-type]


def test_nobody_comes_before_those_that_it_names() -> None:
    """Else the order of the file is kept."""
    tables = [table("a", "c"), table("b"), table("c", "b")]
    assert [each.name for each in in_order(tables)] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([table("a"), table("a")], "2 tables have the name a"),
        ([table("a", "b")], "there is no such filter"),
        ([table("a", "b"), table("b", "a"), table("c")], "a, b wait for each other in a circle"),
        ([table("a", "a")], "a wait for each other in a circle"),
    ],
)
def test_an_order_that_cannot_be_is_refused(tables: list[FilterSettings], words: str) -> None:
    """Names twice, names of nobody, circles."""
    (problem,) = filter_problems(tables)
    assert words in problem


def test_all_mistakes_of_all_filters_are_reported_at_once() -> None:
    """Each kind's settings are checked by its own model, with the path in the file."""
    text = """
[[filter]]
name = "Virus Scanner"
kind = "clamd"
settings = { adress = "unix:/run/clamd", max_size = 5 }

[[filter]]
name = "spam"
kind = "rspamd"
on_error = "panic"
settings = { url = "ftp://host" }

[[filter]]
name = "x"
kind = "telepathy"
"""
    found_problems = problems(GOOD + text)
    starts = [each.partition(":")[0] for each in found_problems]
    assert starts == [
        "filter[0].name",
        "filter[0].settings.max_size",
        "filter[0].settings.adress",
        "filter[1].on_error",
        "filter[1].settings.url",
        "filter[2]",
    ]
    assert "did you mean address?" in found_problems[2]
    assert "telepathy" in found_problems[5]
    assert "rspamd" in found_problems[5]


def test_a_timeout_beyond_the_deadline_is_refused() -> None:
    """Its `on_error` could never apply."""
    text = '[[filter]]\nname = "virus"\nkind = "clamd"\ntimeout = "45s"\n'
    (problem,) = problems(GOOD + text)
    assert "timeout is not less than intake.deadline" in problem
