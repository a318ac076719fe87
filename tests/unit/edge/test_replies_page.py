"""docs/reference/replies.md names every reply that the program gives in its own words, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "replies.md").read_text()
PACKAGES = ("edge", "intake", "filters", "delivery", "queue", "transfer", "app")
SHORTEST_CHARS = 4
ASSEMBLED = {
    "NODE: ...": "{trouble",
    "NODE takes no 8-bit mail": '"no 8-bit mail"',
    "NODE takes no internationalized addresses": '"no internationalized addresses"',
    "the next server does not take internationalised addresses": '"internationalised addresses"',
    "the next server does not take 8-bit mail": '"8-bit mail"',
    "this message cannot be checked": '"this message cannot be checked"',
}
"""Replies whose code and words meet at run time only, each with the piece of source that has its words."""
_RAW = re.compile(r"([245]\d\d) ([245]\.\d\.\d) (.*)", re.DOTALL)


def test_every_reply_is_explained() -> None:
    """Code, enhanced code and the fixed words of each reply in the source stand together on one line of the page."""
    missing = sorted({f"{code} {enhanced} {' ... '.join(words)}" for code, enhanced, words in replies_in_source()
                      if not is_explained(code, enhanced, words)})  # fmt: skip
    assert not missing, f"docs/reference/replies.md does not explain: {missing}"


def test_the_source_is_really_read() -> None:
    """The search finds replies of each kind: built, raw bytes, and with parts filled in."""
    found = {(code, enhanced) for code, enhanced, _ in replies_in_source()}
    assert {("550", "5.1.1"), ("503", "5.5.1"), ("452", "4.5.3"), ("554", "5.4.6")} <= found
    assert len(found) > 25


def test_every_explained_reply_is_given() -> None:
    """What the page quotes is in the source: with these codes, and with all fixed words in this order."""
    given = list(replies_in_source())
    quoted = re.findall(r"`([245]\d\d) ([245]\.\d\.\d) ([^`]+)`", PAGE)
    source = "".join(path.read_text() for path in sources())
    assert all(piece in source for piece in ASSEMBLED.values())
    stale = [
        f"{code} {enhanced} {text}"
        for code, enhanced, text in quoted
        if text not in ASSEMBLED
        and not any(
            (code, enhanced) == (of, with_) and re.search(".*".join(map(re.escape, words)), text)
            for of, with_, words in given
        )
    ]
    assert len(quoted) > 60
    assert not stale, f"docs/reference/replies.md explains what nobody says: {stale}"


def is_explained(code: str, enhanced: str, words: tuple[str, ...]) -> bool:
    """Whether one line of the page has the codes and then all fixed words, in order."""
    parts = (f"{code} {enhanced}", *words)
    return any(re.search(".*".join(map(re.escape, parts)), line) for line in PAGE.splitlines())


def replies_in_source() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """All replies: calls of `reply(code, enhanced, text)` and literals that begin like a reply line."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reply":
                if isinstance(node.args[0], ast.Constant) and isinstance(node.args[1], ast.Constant):
                    yield str(node.args[0].value), str(node.args[1].value), words_of(node.args[2])
            else:
                yield from raw_reply(node)


def sources() -> Iterator[Path]:
    """The modules that give replies."""
    for package in PACKAGES:
        yield from sorted((ROOT / "mailfront" / package).rglob("*.py"))


def raw_reply(node: ast.AST) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """A literal such as b"503 5.5.1 need MAIL first\\r\\n"."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str | bytes):
        return
    text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
    if match := _RAW.fullmatch(text.strip()):
        yield match[1], match[2], (match[3].strip(),)


def words_of(node: ast.expr) -> tuple[str, ...]:
    """The fixed pieces of a text, without what is filled in."""
    pieces = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [str(piece.value).strip(" <>:,;") for piece in pieces if isinstance(piece, ast.Constant)]
    return tuple(text for text in texts if len(text) >= SHORTEST_CHARS)
