"""A configuration file is read whole, and all its mistakes are told at once."""

from pathlib import Path

import pytest

from mailfront.base.errors import ConfigError
from mailfront.config.load import load, parse
from mailfront.config.server_section import load_server
from mailfront.directory.settings import StaticSettings

GOOD = """
[server]
hostname = "mx1.example.edu"
state_dir = "state"

[[listen]]
role = "smtp"
address = "127.0.0.1:2525"

[domains]
local = ["example.edu"]

[postmaster]
address = "postmaster@example.edu"

[directory]
kind = "static"
file = "users.toml"

[storage]
cluster = "example"
handoff_mailbox = "handoff@example.edu"
handoff_password_file = "handoff.secret"
secret_file = "/etc/mailfront/hmac.secret"

[[node]]
id = "store1"
host = "10.0.0.11"
lmtp = { port = 24, tls = "starttls" }

[[node]]
id = "store2"
host = "10.0.0.12"
lmtp = "unix:/run/store2/lmtp"
"""
PATH = Path("/etc/mailfront/mailfront.toml")


def problems(text: str) -> tuple[str, ...]:
    """The lines that a file is refused with."""
    with pytest.raises(ConfigError) as caught:
        parse(text, PATH)
    return caught.value.problems


def changed(old: str, new: str) -> str:
    """The good file with one change."""
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_good_file_gives_every_section() -> None:
    """What is not written has its default."""
    configuration = parse(GOOD, PATH)
    assert configuration.server.workers == 2
    assert configuration.limits.recipients == 1000
    assert configuration.limits.free_space > 0
    assert configuration.queue.retry[0] == 60.0
    assert [node.id for node in configuration.node] == ["store1", "store2"]
    assert configuration.tls is None


def test_relative_paths_belong_to_the_folder_of_the_file() -> None:
    """It does not matter where mailfront is started from."""
    configuration = parse(GOOD, PATH)
    assert isinstance(configuration.directory, StaticSettings)
    assert configuration.directory.file == Path("/etc/mailfront/users.toml")
    assert configuration.storage.handoff_password_file == Path("/etc/mailfront/handoff.secret")
    assert configuration.storage.secret_file == Path("/etc/mailfront/hmac.secret")
    assert configuration.server.state_url == "sqlite:////etc/mailfront/state/state.db"


def test_all_mistakes_are_told_at_once_with_their_places() -> None:
    """Mistakes of several sections and of lists come together; each names where and why."""
    text = changed('lmtp = "unix:/run/store2/lmtp"', 'lmtp = "nowhere"\nimap = { port = "x" }')
    text = text.replace('hostname = "mx1.example.edu"', 'hostname = "not a name"\nworkrs = 3')
    text = text.replace('local = ["example.edu"]', "local = []")
    found = problems(text)
    starts = [line.partition(":")[0] for line in found]
    assert starts == ["server.hostname", "server.workrs", "domains.local", "node[1].lmtp", "node[1].imap.port"]
    assert found[1].endswith("did you mean workers?")
    assert '(id "store2")' in found[3]


@pytest.mark.parametrize(
    ("addition", "where"),
    [
        ("[storage.takeover]\n", "storage.takeover"),
    ],
)
def test_what_a_later_version_brings_is_refused_as_such(addition: str, where: str) -> None:
    """A setting of a later version is not silently ignored, nor called a typing mistake."""
    assert problems(GOOD + addition) == (f"{where}: is not in this version of mailfront; remove it",)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('role = "smtp"', 'role = "submission"', "listen[0].role"),
        ("[storage]", '[storage]\nlayout = "shared"', "storage.layout"),
        ('state_dir = "state"', 'state = "postgresql://mail@db/mail"', "server.state"),
    ],
)
def test_values_of_a_later_version_are_refused_as_such(old: str, new: str, expected: str) -> None:
    """The line says that the value is known and not yet served."""
    (line,) = problems(changed(old, new))
    assert line.startswith(f"{expected}: ")
    assert "not in this version" in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('address = "127.0.0.1:2525"', 'address = "127.0.0.1:2525"\ntls = "starttls"', "needs a certificate"),
        ('id = "store2"', 'id = "Store1"', "id 'store1' is used 2 times"),
        ("postmaster@example.edu", "postmaster@elsewhere.example", "not in domains.local"),
        ("postmaster@example.edu", "handoff@example.edu", "is storage.handoff_mailbox"),
        ("[storage]", '[login]\nsend = "master"\n[storage]', "needs storage.master_user"),
        ('role = "smtp"', 'role = "admin"', "takes mail or logins"),
        ("[domains]", '[[listen]]\nrole = "lmtp"\naddress = "127.0.0.1:2525"\n[domains]', "listened on 2 times"),
        ('state_dir = "state"', f'runtime_dir = "/{"x" * 110}"', "choose a shorter folder"),
        ("[domains]", "[limits]\nconnections = 20\n[domains]", "limits.connections_per_ip"),
        ("[domains]", '[limits]\nbody_disk = "1MiB"\n[domains]', "limits.body_disk"),
    ],
)
def test_sections_that_do_not_agree_are_refused(old: str, new: str, expected: str) -> None:
    """Each section is right by itself; together they are not."""
    (line,) = problems(changed(old, new))
    assert expected in line


def test_a_broken_certificate_section_is_not_also_called_missing() -> None:
    """One mistake gives one line."""
    text = changed('address = "127.0.0.1:2525"', 'address = "127.0.0.1:2525"\ntls = "starttls"')
    assert problems(text + "[tls]\ncertificate = 5\n") == ('tls.certificate: must be text in quotes, such as "..."',)


def test_sections_agree_even_where_others_are_broken() -> None:
    """A mistake in [server] does not hide that postmaster is not local."""
    text = changed('hostname = "mx1.example.edu"', "hostname = 5").replace("postmaster@example.edu", "p@example.org")
    assert [line.partition(":")[0] for line in problems(text)] == ["server.hostname", "postmaster.address"]


def test_missing_sections_say_what_they_are_for() -> None:
    """An empty file is told everything that it needs."""
    found = problems("")
    assert [line.partition(":")[0] for line in found] == [
        "server", "listen", "domains", "postmaster", "directory", "storage", "node",
    ]  # fmt: skip
    assert found[2] == "domains: is missing. Which domains are ours."


def test_a_secret_in_the_file_is_not_repeated_in_the_message() -> None:
    """Somebody who wrote a password into the file does not find it in the log as well."""
    found = problems(changed('cluster = "example"', 'cluster = "example"\nhandoff_password = "hunter2"'))
    assert found == ("storage.handoff_password: no such setting; did you mean handoff_password_file?",)


def test_numbers_without_units_are_refused() -> None:
    """A duration says its unit."""
    (line,) = problems(GOOD + "[intake]\ndeadline = 30\n")
    assert line == 'intake.deadline: 30 has no unit; write it as text with one, such as "30s"'


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[server", b"a = 1\na = 2"])
def test_files_that_are_not_toml_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """Syntax and encoding are told with the file's name."""
    path = tmp_path / "mailfront.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: ")


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    """No traceback for a wrong -c."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_the_server_is_found_while_the_rest_is_being_edited(tmp_path: Path) -> None:
    """Commands need [server] only; its own mistakes are told with their places."""
    path = tmp_path / "mailfront.toml"
    path.write_text('[server]\nhostname = "mx1.example.edu"\nruntime_dir = "run"\n[storage]\nbroken = 1\n')
    assert load_server(path).admin_socket == tmp_path / "run" / "admin.sock"
    path.write_text('[server]\nhostname = "mx1.example.edu"\nworker = 1\n')
    with pytest.raises(ConfigError) as caught:
        load_server(path)
    assert caught.value.problems == ("server.worker: no such setting; did you mean workers?",)


def test_a_warning_comes_before_the_end() -> None:
    """Whoever asks for warnings gets them: `warn_after` must be shorter than `lifetime`."""
    late = '[queue]\nlifetime = "1h"\nwarn_after = "1h"\n'
    assert parse(GOOD + late, PATH).queue.lifetime == 3600.0
    (line,) = problems(GOOD + late + 'warn_networks = ["10.0.0.0/8"]\n')
    assert "queue.warn_after: is not shorter than queue.lifetime" in line
