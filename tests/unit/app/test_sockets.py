"""The supervisor's sockets across a reload."""

import os
import pwd
import stat
from pathlib import Path

import pytest

from mailfront.app import sockets
from mailfront.base.errors import ConfigError
from mailfront.config.load import parse
from mailfront.config.model import Configuration
from tests.support.ports import free_port


def config(folder: Path, *addresses: str, server: str = "", cluster: str = "c") -> Configuration:
    listeners = "".join(f'[[listen]]\nrole = "smtp"\naddress = "{address}"\n' for address in addresses)
    text = f"""
[server]
hostname = "mx1.example.edu"
state_dir = "{folder}"
runtime_dir = "{folder}"
spool_dir = "{folder}"
{server}
{listeners}
[domains]
local = ["example.edu"]
[postmaster]
address = "postmaster@example.edu"
[directory]
kind = "static"
file = "users.toml"
[storage]
cluster = "{cluster}"
secondaries = 0
[[node]]
id = "store1"
host = "127.0.0.1"
"""
    return parse(text, folder / "mailfront.toml")


def test_a_socket_that_stays_is_kept_and_one_that_goes_is_closed(tmp_path: Path) -> None:
    """A reload binds only what is new, and loses no connection that waits in what stays."""
    kept, gone, fresh = (f"127.0.0.1:{free_port()}" for _ in range(3))
    old = sockets.bind_all(config(tmp_path, kept, gone))
    new = sockets.rebind(old, config(tmp_path, kept, fresh))
    assert new[kept] is old[kept]
    sockets.close_unused(old, new)
    assert all(each.fileno() == -1 for each in old[gone])
    assert all(each.fileno() >= 0 for each in (*new[kept], *new[fresh]))
    sockets.close_unused(new, {})
    assert all(each.fileno() == -1 for each in new[kept])


def test_all_that_cannot_be_bound_is_told_and_nothing_stays_bound(tmp_path: Path) -> None:
    """Two taken ports give two lines, and the third port is free again."""
    taken = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    free = f"127.0.0.1:{free_port()}"
    held = sockets.bind_all(config(tmp_path, *taken))
    with pytest.raises(ConfigError) as refused:
        sockets.bind_all(config(tmp_path, free, *taken))
    assert len(refused.value.problems) == 2
    sockets.close_unused(sockets.bind_all(config(tmp_path, free)), {})
    sockets.close_unused(held, {})


def test_what_needs_a_restart_is_refused_by_name(tmp_path: Path) -> None:
    """Another state folder or cluster name cannot come into force by a reload."""
    address = "127.0.0.1:2525"
    old = config(tmp_path, address)
    new = config(tmp_path, address, server='admin_group = "mail"', cluster="other")
    with pytest.raises(ConfigError) as refused:
        sockets.refuse_what_needs_a_restart(old, new)
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["server.admin_group", "storage.cluster"]
    sockets.refuse_what_needs_a_restart(old, config(tmp_path, address, "127.0.0.1:2526"))


def test_only_the_socket_of_the_admins_can_be_reached_by_others(tmp_path: Path) -> None:
    """The folders of mail are closed to others; that of the sockets can be entered."""
    described = config(tmp_path, "127.0.0.1:0")
    server = described.server.model_copy(
        update={name: tmp_path / name for name in ("state_dir", "runtime_dir", "spool_dir")}
    )
    sockets.prepare_folders(described.model_copy(update={"server": server}))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"state_dir": 0o750, "runtime_dir": 0o755, "spool_dir": 0o750}


def test_nothing_is_given_away_through_a_link(tmp_path: Path) -> None:
    """In a folder of its own an account could put a link to anything; root does not follow it."""
    account = pwd.getpwuid(os.getuid())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spool").symlink_to(tmp_path / "elsewhere")
    sockets.give(tmp_path / "elsewhere", account)
    with pytest.raises(OSError, match="spool"):
        sockets.give(tmp_path / "spool", account)


@pytest.mark.parametrize(("sockets_count", "workers_count"), [(2, 2), (2, 1), (3, 2), (1, 3), (2, 5)])
def test_the_workers_together_serve_every_socket(tmp_path: Path, sockets_count: int, workers_count: int) -> None:
    """Whatever the number of workers was when the sockets were bound, none is without a worker, and no worker idle."""
    address = f"127.0.0.1:{free_port()}"
    bound = sockets.bind_all(config(tmp_path, address, server=f"workers = {sockets_count}"))
    try:
        shares = [sockets.share(bound[address], place, workers_count) for place in range(workers_count)]
        assert all(shares)
        assert {each for share in shares for each in share} == set(bound[address])
    finally:
        sockets.close_unused(bound, {})
