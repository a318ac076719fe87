"""The directory that is a file."""

from pathlib import Path

import pytest

from mailfront.base.errors import ConfigError
from mailfront.directory.answers import Found, NoSuch, Source, Status
from mailfront.directory.settings import StaticSettings
from mailfront.directory.static import StaticDirectory
from mailfront.mail.address import Address

GOOD = """
[[user]]
address = "ana@example.edu"
mailbox = "Ana"
password = "{PLAIN}secret"
aliases = ["a.b@example.edu", "Ana@other.example"]

[[user]]
address = "bob@example.edu"
mailbox = "bob"
status = "suspended"
forward = "bob@example.org"
host = "store2"

[[user]]
address = "bob+lists@example.edu"
mailbox = "lists"
over_quota = true

[[group]]
address = "all@example.edu"
members = ["ana@example.edu", "bob@example.edu"]
"""


def directory(tmp_path: Path, text: str) -> StaticDirectory:
    """A directory from the text of a file."""
    path = tmp_path / "users.toml"
    path.write_text(text)
    return StaticDirectory(StaticSettings.model_validate({"kind": "static", "file": str(path)}))


async def test_users_aliases_and_details_are_found(tmp_path: Path) -> None:
    """Any case, any alias, and `+detail` lead to the user; the record is the same."""
    users = directory(tmp_path, GOOD)
    answer = await users.recipient(Address("ANA", "example.edu"))
    assert isinstance(answer, Found)
    assert (answer.record.mailbox, answer.record.key, answer.source) == ("Ana", "ana@example.edu", Source.STATIC)
    alias = await users.recipient(Address("ana", "other.example"))
    assert isinstance(alias, Found)
    assert alias.record == answer.record
    detailed = await users.recipient(Address("a.b+News", "example.edu"))
    assert isinstance(detailed, Found)
    assert (detailed.record, detailed.detail) == (answer.record, "News")


@pytest.mark.parametrize("local", ["ana+x y", "ana+x@evil.example", 'ana+"', "ana+<", "ana+a..b", "ana+\\"])
async def test_a_detail_that_no_node_can_be_told_does_not_exist(tmp_path: Path, local: str) -> None:
    """What stands only in quotes would not survive, or mean another address, behind the name of a mailbox."""
    assert isinstance(await directory(tmp_path, GOOD).recipient(Address(local, "example.edu")), NoSuch)


async def test_an_address_with_a_plus_of_its_own_wins_over_the_detail(tmp_path: Path) -> None:
    """The address as it stands is tried first."""
    answer = await directory(tmp_path, GOOD).recipient(Address("bob+lists", "example.edu"))
    assert isinstance(answer, Found)
    assert (answer.record.mailbox, answer.detail, answer.record.over_quota) == ("lists", "", True)


async def test_flags_forwards_and_groups(tmp_path: Path) -> None:
    """Status, host, forward and group are in the record."""
    users = directory(tmp_path, GOOD)
    bob = await users.recipient(Address("bob", "example.edu"))
    assert isinstance(bob, Found)
    assert (bob.record.status, bob.record.host, bob.record.redirected) == (Status.SUSPENDED, "store2", True)
    group = await users.recipient(Address("all", "example.edu"))
    assert isinstance(group, Found)
    assert group.record.redirected


async def test_who_is_not_in_the_file_does_not_exist(tmp_path: Path) -> None:
    """The file is complete, so there is no third answer."""
    users = directory(tmp_path, GOOD)
    assert isinstance(await users.recipient(Address("nobody", "example.edu")), NoSuch)
    assert isinstance(await users.recipient(Address("nobody+x", "example.edu")), NoSuch)
    assert isinstance(await users.recipient(Address("ana", "example.org")), NoSuch)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[user]]\naddress = "ana"\nmailbox = "a"', "user.0.address"),
        ('[[user]]\naddress = "ana@x.org"', "user.0.mailbox"),
        ('[[user]]\naddress = "ana@x.org"\nmailbox = "a b"', "user.0.mailbox"),
        ('[[user]]\naddress = "ana@x.org"\nmailbox = "a"\npassword = "clear"', "user.0.password"),
        ('[[user]]\naddress = "ana@x.org"\nmailbox = "a"\nshell = "x"', "user.0.shell"),
        ('[[group]]\naddress = "ana@x.org"\nmembers = []', "group.0.members"),
        (GOOD + '[[group]]\naddress = "A.B@example.edu"\nmembers = ["x@y.org"]', "in the file already"),
        ("[[user", "not valid TOML"),
    ],
)
def test_mistakes_are_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    """Each line says the file, the entry and what is wrong."""
    with pytest.raises(ConfigError) as caught:
        directory(tmp_path, text)
    assert said in str(caught.value)
    assert "users.toml" in str(caught.value)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """Two mistakes, two lines."""
    with pytest.raises(ConfigError) as caught:
        directory(tmp_path, '[[user]]\naddress = "ana"\nmailbox = ""')
    assert len(caught.value.problems) == 2


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    """The line names the setting."""
    settings = StaticSettings.model_validate({"kind": "static", "file": str(tmp_path / "none.toml")})
    with pytest.raises(ConfigError, match=r"check directory\.file"):
        StaticDirectory(settings)


async def test_reachable_reads_the_file_again(tmp_path: Path) -> None:
    """A file that was broken after the start is reported, and answers go on."""
    users = directory(tmp_path, GOOD)
    assert await users.reachable() == ()
    (tmp_path / "users.toml").write_text("[[user")
    assert len(await users.reachable()) == 1
    assert isinstance(await users.recipient(Address("ana", "example.edu")), Found)
