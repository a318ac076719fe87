"""The demo's people and the files of its cluster."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailfront.config.load import load
from mailfront.demo.cluster import Cluster
from mailfront.demo.people import HANDOFF, PEOPLE, POSTMASTER, person


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = Cluster()
    yield made
    made.stop()


def test_everybody_can_be_told_apart() -> None:
    """A few dozen people; no name or address twice; the handoff account is nobody's."""
    addresses = [address for each in PEOPLE for address in (each.address, *each.aliases)]
    assert 24 <= len(PEOPLE) <= 60
    assert len(addresses) == len(set(addresses))
    assert HANDOFF not in addresses
    assert person(POSTMASTER).name == "ana"


def test_the_configuration_is_a_good_one(cluster: Cluster) -> None:
    """The real loader takes the file; ports are unprivileged and different; secrets are for the owner only."""
    configuration = load(cluster.configuration_file)
    ports = [cluster.smtp, cluster.http, *(port for node in cluster.nodes.values() for port in (node.lmtp, node.imap))]
    assert len(set(ports)) == len(ports) == 8
    assert min(ports) > 1023
    assert [node.id for node in configuration.node] == ["store1", "store2", "store3"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in cluster.directory.glob("*.secret"))
    assert cluster.directory.stat().st_mode & 0o077 == 0


def test_directory_and_nodes_know_the_same_people(cluster: Cluster) -> None:
    """Each mailbox of the directory is a user of the nodes, with the same password; the handoff account is not."""
    users = tomllib.loads((cluster.directory / "users.toml").read_text())["user"]
    accounts = json.loads((cluster.directory / "accounts.json").read_text())
    assert {user["mailbox"]: user["password"].removeprefix("{PLAIN}") for user in users} == {
        name: password for name, password in accounts.items() if name != HANDOFF
    }


def test_a_second_demo_gets_other_ports(cluster: Cluster, tmp_path: Path) -> None:
    """Two demos at a time share no port."""
    other = Cluster()
    try:
        mine, theirs = (
            {each.smtp, each.http, *(node.lmtp for node in each.nodes.values()), *(n.imap for n in each.nodes.values())}
            for each in (cluster, other)
        )
        assert mine.isdisjoint(theirs)
    finally:
        other.stop()
