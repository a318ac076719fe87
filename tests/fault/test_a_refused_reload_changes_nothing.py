"""SIGHUP with a file that cannot come into force: all reasons are said, and everything goes on as before.

Scripted nodes; the front end is the real one.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mailfront.cluster.hashing import BUCKETS_COUNT
from tests.support.fault_cluster import FaultCluster
from tests.support.lmtp_peer import ScriptedLmtpPeer
from tests.support.ports import free_port
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    """Three scripted nodes."""
    with FaultCluster.of_peers({f"store{number}": ScriptedLmtpPeer() for number in (1, 2, 3)}) as running:
        yield running


@pytest.fixture(autouse=True)
def _the_file_as_it_was(cluster: FaultCluster) -> Iterator[None]:
    """Each test spoils the file; afterwards it is the one in force again."""
    good = cluster.server.configuration_file.read_bytes()
    yield
    cluster.server.configuration_file.write_bytes(good)


def refused(cluster: FaultCluster) -> list[str]:
    """Reload, which must be refused; the processes and the mail must not notice. Returns the reasons."""
    server = cluster.server
    before = [server.process.pid, server.keeper_pid(), *server.workers()]
    assert not server.reload()
    assert [server.process.pid, server.keeper_pid(), *server.workers()] == before
    case = cluster.case()
    assert case.send(case.letter("store1", "store2", "store3")).endswith("delivered")
    assert case.check("after a refusal").delivered == 3
    problems: list[str] = server.events("config_refused")[-1]["problems"]
    return problems


def edit(cluster: FaultCluster, changes: Mapping[str, str]) -> None:
    """Change the text of the file; each old text must be there."""
    path = cluster.server.configuration_file
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


def test_all_mistakes_are_named_at_once(cluster: FaultCluster) -> None:
    """A bad value, an unknown setting and a bad duration: one line each, with the place."""
    edit(
        cluster,
        {
            "workers = 2": 'workers = "many"\ncolour = "blue"',
            'deadline = "4s"': 'deadline = "soon"',
        },
    )
    problems = refused(cluster)
    for name in ("server.workers", "server.colour", "intake.deadline"):
        assert sum(name in problem for problem in problems) == 1, problems
    assert len(problems) == 3


@pytest.mark.parametrize("content", [b"[server\n", b"\xff\xfe\x00", b""])
def test_what_is_no_configuration_at_all(cluster: FaultCluster, content: bytes) -> None:
    """A file that is cut off, not text, or empty is refused with a reason."""
    cluster.server.configuration_file.write_bytes(content)
    assert refused(cluster)


def test_a_file_that_is_gone(cluster: FaultCluster) -> None:
    """A file that cannot be read is named."""
    path = cluster.server.configuration_file
    path.rename(path.with_suffix(".away"))
    try:
        assert str(path) in refused(cluster)[0]
    finally:
        path.with_suffix(".away").rename(path)


def test_a_port_that_is_taken(cluster: FaultCluster) -> None:
    """The other listener is not opened either."""
    peer: Any = cluster.nodes["store1"]
    free = free_port()
    with cluster.server.configuration_file.open("a") as file:
        for port in (free, peer.peer.port):
            file.write(f'\n[[listen]]\nrole = "smtp"\naddress = "127.0.0.1:{port}"\n')
    (problem,) = refused(cluster)
    assert str(peer.peer.port) in problem
    assert not listens(free)


def listens(port: int) -> bool:
    """Whether anybody listens on this port of the loopback."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{port:04X} 00000000:0000 0A" in line for line in lines)


def test_what_a_reload_cannot_change(cluster: FaultCluster) -> None:
    """Settings that need a restart, and those that nothing may change, are each named."""
    edit(
        cluster,
        {
            'cluster = "example"': 'cluster = "another"',
            str(cluster.server.state_dir): str(cluster.server.directory / "elsewhere"),
        },
    )
    problems = refused(cluster)
    assert sorted(problem.partition(":")[0] for problem in problems) == ["server.state_dir", "storage.cluster"]


def test_a_node_that_owns_mailboxes_cannot_be_dropped(cluster: FaultCluster) -> None:
    """The refusal says how many buckets would be without an owner."""
    ring = cluster.server.cli_json("ring", "show")
    owned = next(node["buckets_count"] for node in ring["nodes"] if node["id"] == "store3")
    assert 0 < owned < BUCKETS_COUNT
    head, _, _ = cluster.server.configuration_file.read_text().partition('[[node]]\nid = "store3"')
    cluster.server.configuration_file.write_text(head)
    (problem,) = refused(cluster)
    assert "'store3'" in problem
    assert f"{owned} buckets" in problem


def test_a_file_of_users_that_is_broken(cluster: FaultCluster) -> None:
    """The old configuration names the same file: no process may end before it has been read."""
    users = cluster.server.directory / "users.toml"
    good = users.read_text()
    users.write_text(good + "[[user\n")
    try:
        (problem,) = refused(cluster)
        assert str(users) in problem
    finally:
        users.write_text(good)


def test_a_certificate_that_is_none(cluster: FaultCluster) -> None:
    """It is named, and the listener that it was for is not opened."""
    broken, port = cluster.server.secret("certificate", "no certificate"), free_port()
    with cluster.server.configuration_file.open("a") as file:
        file.write(f'\n[[listen]]\nrole = "smtp"\naddress = "127.0.0.1:{port}"\ntls = "starttls"\n')
        file.write(f'\n[tls]\ncertificate = "{broken}"\nkey = "{broken}"\n')
    (problem,) = refused(cluster)
    assert str(broken) in problem
    assert not listens(port)


@pytest.mark.parametrize("part", ["keeper", "worker"])
def test_a_process_that_does_not_come_up(cluster: FaultCluster, part: str) -> None:
    """A new process dies before it serves: a keeper with the old configuration is there again, the old workers never
    left, and of the new ones none is left over."""
    server = cluster.server
    workers, reloads = server.workers(), len(server.events("config_refused"))
    before = set(server.process.members())

    def fresh() -> list[int]:
        return [pid for pid in server.process.members() if pid not in before and runs(pid, f"mailfront.app.{part}")]

    edit(cluster, {'deadline = "4s"': 'deadline = "7s"'})
    server.process.send_signal(signal.SIGHUP)
    os.kill(wait_until(fresh, 60.0, f"a new {part}")[0], signal.SIGKILL)
    wait_until(lambda: len(server.events("config_refused")) > reloads, 60.0, "the refusal")
    (problem,) = server.events("config_refused")[-1]["problems"]
    assert part in problem
    server.wait_for_parts()
    assert server.workers() == workers
    assert server.cli_json("config", "show")["intake"]["deadline"] == "4s"
    case = cluster.case()
    assert case.post(case.letter("store1", "store2", "store3")).wait().text.endswith("delivered")
    parts = {server.process.pid, server.keeper_pid(), *workers}
    wait_until(lambda: set(server.process.members()) == parts, 10.0, "the end of all other processes")


def runs(pid: int, module: str) -> bool:
    """Whether a process runs this module."""
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
