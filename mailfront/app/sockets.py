"""The supervisor's listening sockets over its life: bound at start, kept across a reload, closed when unused.

A socket that stays in the configuration stays bound: a reload loses no connection that waits in it. What needs root
or another identity (the user, the database, the folders) cannot change without a restart and is refused here.
"""

import grp
import os
import pwd
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from socket import socket

from mailfront.base.errors import ConfigError
from mailfront.config.diff import Effect, compare
from mailfront.config.model import Configuration
from mailfront.net.settings import ListenSettings
from mailfront.net.sockets import UnixAddress, bind_listener, parse_listen_address

Listening = Mapping[str, tuple[socket, ...]]


def bind_all(config: Configuration) -> dict[str, tuple[socket, ...]]:
    """Bind every listener. Raises ConfigError with all that cannot be bound; then nothing stays bound."""
    return rebind({}, config)


def rebind(old: Listening, config: Configuration) -> dict[str, tuple[socket, ...]]:
    """Bind what `config` listens on and `old` does not have. Raises ConfigError; then nothing new stays bound."""
    problems: list[str] = []
    with ExitStack() as undo:
        bound: dict[str, tuple[socket, ...]] = {}
        for section in config.listen:
            if section.address in old:
                bound[section.address] = old[section.address]
                continue
            try:
                bound[section.address] = _bind(section, config.server.workers)
            except ConfigError as error:
                problems += error.problems
                continue
            for each in bound[section.address]:
                undo.callback(each.close)
        if problems:
            raise ConfigError(tuple(problems))
        undo.pop_all()
    return bound


def _bind(section: ListenSettings, workers: int) -> tuple[socket, ...]:
    address = parse_listen_address(section.address)
    count = 1 if section.role == "admin" else workers
    bound = bind_listener(address, sockets_count=count, mode=int(section.socket_mode, 8))
    for each in bound:
        each.set_inheritable(False)
    return bound


def share(bound: tuple[socket, ...], place: int, workers_count: int) -> tuple[socket, ...]:
    """The sockets of one address that the worker in this place accepts on. Together the workers serve all of them: the
    kernel gives connections to each socket that is bound, also to those left from a time with more workers."""
    return bound[place::workers_count] or (bound[place % len(bound)],)


def bind_admin(config: Configuration) -> socket:
    """The admin socket: 0660, root (or us) and `server.admin_group`; without one, the group of `server.user`."""
    server = config.server
    (bound,) = bind_listener(UnixAddress(str(server.admin_socket)), mode=0o660)
    if server.admin_group is None and server.user is not None and os.geteuid() == 0:
        os.chown(server.admin_socket, -1, _account(server.user).pw_gid)
    if server.admin_group is not None:
        try:
            os.chown(server.admin_socket, -1, grp.getgrnam(server.admin_group).gr_gid)
        except (KeyError, PermissionError) as error:
            bound.close()
            raise ConfigError(
                (f"server.admin_group: cannot give the admin socket to {server.admin_group!r}: {error}",)
            ) from error
    return bound


def close_unused(gone: Listening, kept: Listening) -> None:
    """Close the sockets of `gone` that `kept` does not have, and remove the files of UNIX sockets."""
    for address, bound in gone.items():
        if kept.get(address) is bound:
            continue
        for each in bound:
            each.close()
        parsed = parse_listen_address(address)
        if isinstance(parsed, UnixAddress):
            Path(parsed.path).unlink(missing_ok=True)


def refuse_what_needs_a_restart(old: Configuration, new: Configuration) -> None:
    """Raise ConfigError if `new` differs from what runs in something that a reload cannot change."""
    problems = [
        f"{change.path}: a reload cannot change this ({change.reason}); "
        + ("restart mailfront" if change.effect is Effect.RESTART else "put the old value back")
        for change in compare(old, new)
        if change.effect is not Effect.RELOAD
    ]
    if problems:
        raise ConfigError(tuple(problems))


def prepare_folders(config: Configuration) -> None:
    """Make the folders of `[server]` and give them to `server.user`. Raises ConfigError."""
    server = config.server
    owner = _account(server.user) if server.user is not None and os.geteuid() == 0 else None
    problems = []
    for folder in (server.state_dir, server.runtime_dir, server.spool_dir):
        try:
            # Those who may use the admin socket must be able to reach it; nothing else in there is open to them.
            folder.mkdir(mode=0o755 if folder == server.runtime_dir else 0o750, parents=True, exist_ok=True)
            if owner is not None:
                give(folder, owner)
            if not os.access(folder, os.W_OK):
                problems.append(f"{folder}: cannot be written; give it to the user that runs mailfront")
        except OSError as error:
            problems.append(f"{folder}: cannot be made: {error.strerror}")
    if problems:
        raise ConfigError(tuple(problems))


def give(folder: Path, owner: pwd.struct_passwd) -> None:
    """Give a folder to an account. Inside a folder that the account owns already no symbolic link is followed: it could
    lead anywhere, and root would give that away. Raises OSError."""
    may_follow = folder.parent.stat().st_uid != owner.pw_uid
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if may_follow else os.O_NOFOLLOW))
    try:
        os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
    finally:
        os.close(descriptor)


def drop_root(config: Configuration) -> None:
    """Become `server.user` for good, if we are root. Raises ConfigError if there is no such account."""
    if config.server.user is None or os.geteuid() != 0:
        return
    account = _account(config.server.user)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = account.pw_dir


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        raise ConfigError(
            (f"server.user: there is no account {name!r}; make it with: adduser --system {name}",)
        ) from error
