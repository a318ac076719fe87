"""What `config check` tries on this machine: accounts, folders, files as `server.user` sees them, ports, certificates.

Nothing is changed, except that a socket file which no server listens on may be replaced and removed. Reading "as
server.user" needs root: a child process becomes that user and opens each file; without root our own rights are tried
and a warning says so.
"""

import errno
import grp
import os
import pwd
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import orjson
from pydantic import BaseModel

from mailfront.base.errors import ConfigError
from mailfront.base.secret import read_secret_file
from mailfront.base.units import show_size
from mailfront.config.findings import Finding, failed, note, ok, warning
from mailfront.config.model import Configuration
from mailfront.net.sockets import UnixAddress, bind_listener, parse_listen_address
from mailfront.net.tls import ServerTls, node_context
from mailfront.store.location import database_path

_LOOSE_BITS = 0o007


def check_account(configuration: Configuration) -> Iterator[Finding]:
    """The account and the group that the configuration names."""
    server = configuration.server
    if server.user is not None:
        try:
            account = pwd.getpwnam(server.user)
        except KeyError:
            text = f"there is no account {server.user!r}; make it with: adduser --system --group {server.user}"
            yield failed("server.user", text)
        else:
            if account.pw_uid == 0:
                yield warning("server.user", "is root; name an account without privileges")
            else:
                yield ok("server.user", f"{server.user} exists")
    if server.admin_group is not None:
        try:
            grp.getgrnam(server.admin_group)
        except KeyError:
            text = f"there is no group {server.admin_group!r}; make it with: addgroup --system {server.admin_group}"
            yield failed("server.admin_group", text)
        else:
            yield ok("server.admin_group", f"{server.admin_group} exists")


def check_folders(configuration: Configuration) -> Iterator[Finding]:
    """The folders of `[server]`: there or to be made, writable, with room."""
    server = configuration.server
    database = database_path(server.state_url)
    folders = {
        "server.state_dir": server.state_dir,
        "server.runtime_dir": server.runtime_dir,
        "server.spool_dir": server.spool_dir,
        "server.state": database.parent,
    }
    there = {name: folder for name, folder in folders.items() if folder.is_dir()}
    refused = refusals(server.user, [str(folder) for folder in there.values()], os.R_OK | os.W_OK | os.X_OK)
    for name, folder in folders.items():
        if name in there:
            reason = refused.get(str(folder))
            yield failed(name, f"{folder}: {reason}") if reason else ok(name, f"{folder} can be written")
        elif folder.exists():
            yield failed(name, f"{folder} is not a folder")
        elif name == "server.state" and folder != server.state_dir:
            yield failed(name, f"{folder} does not exist; create it and give it to server.user")
        else:
            yield note(name, f"{folder} does not exist; it will be made at the start")
    yield from _check_space(configuration, there)


def _check_space(configuration: Configuration, there: dict[str, Path]) -> Iterator[Finding]:
    needs = {
        "server.state_dir": ("limits.free_space", configuration.limits.free_space),
        "server.spool_dir": ("limits.body_disk", configuration.limits.body_disk),
    }
    for name, (limit, needed_bytes) in needs.items():
        if name in there:
            free_bytes = shutil.disk_usage(there[name]).free
            if free_bytes < needed_bytes:
                text = f"{show_size(free_bytes)} free, and {limit} is {show_size(needed_bytes)}"
                yield warning(name, text)


def files_of(configuration: Configuration) -> dict[str, Path]:
    """All files that the configuration names, by the path of the setting."""
    found: dict[str, Path] = {}
    for section in ("tls", "node_tls", "directory", "storage", "outbound"):
        _collect(section, getattr(configuration, section), found)
    return found


def _collect(path: str, value: object, found: dict[str, Path]) -> None:
    if isinstance(value, Path):
        found[path] = value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            _collect(f"{path}.{name}", getattr(value, name), found)
    elif isinstance(value, tuple):
        for number, element in enumerate(value):
            _collect(f"{path}[{number}]", element, found)


def check_files(configuration: Configuration) -> Iterator[Finding]:
    """Certificates, keys, passwords: readable by `server.user`, not by everybody, and what they should be."""
    files = files_of(configuration)
    user = configuration.server.user
    if user is not None and os.geteuid() not in (0, _uid_of(user)):
        yield warning("server.user", f"not root: files were tried as {_own_name()}, not as {user}")
    refused = refusals(user, [str(path) for path in files.values()], os.R_OK)
    for name, path in files.items():
        if reason := refused.get(str(path)):
            yield failed(name, f"{path}: {reason}")
            continue
        if name.endswith(("_file", ".key", ".client_key")):
            yield from _check_secret(name, path)
        else:
            yield ok(name, f"{path} can be read")
    yield from _check_tls(configuration, {name for name, path in files.items() if str(path) in refused})


def _check_secret(name: str, path: Path) -> Iterator[Finding]:
    try:
        loose = path.stat().st_mode & _LOOSE_BITS
        if name.endswith("_file"):
            read_secret_file(path)
    except ConfigError as error:
        yield failed(name, error.problems[0])
    except OSError as error:
        yield failed(name, f"{path}: {error.strerror}")
    else:
        if loose:
            yield warning(name, f"{path} can be read by every user of this machine; chmod o= it")
        else:
            yield ok(name, f"{path} can be read")


def _check_tls(configuration: Configuration, unreadable: set[str]) -> Iterator[Finding]:
    if configuration.tls is not None and not any(name.startswith("tls.") for name in unreadable):
        try:
            ServerTls(configuration.tls)
        except ConfigError as error:
            for problem in error.problems:
                yield failed("tls", problem)
        else:
            yield ok("tls", "certificates and keys belong together")
    if not any(name.startswith("node_tls.") for name in unreadable):
        try:
            node_context(configuration.node_tls)
        except ConfigError as error:
            for problem in error.problems:
                yield failed("node_tls", problem)
    if not configuration.node_tls.verify and any(node.lmtp.tls != "off" for node in configuration.node):
        yield warning("node_tls.verify", "the nodes' certificates are not checked; anybody could answer for a node")


def check_listeners(configuration: Configuration, ours: frozenset[str]) -> Iterator[Finding]:
    """Bind each address for a moment. `ours`: addresses that the running server has; those are well."""
    with ExitStack() as cleanup:
        for listener in configuration.listen:
            where = f'listen "{listener.address}"'
            if listener.address in ours:
                yield ok(where, "in use by the running server")
                continue
            address = parse_listen_address(listener.address)
            try:
                for bound in bind_listener(address):
                    cleanup.callback(bound.close)
            except ConfigError as error:
                no_root = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EACCES
                text = error.problems[0].removeprefix(f"{address}: ")
                yield warning(where, text) if no_root and os.geteuid() != 0 else failed(where, text)
                continue
            if isinstance(address, UnixAddress):
                cleanup.callback(Path(address.path).unlink, missing_ok=True)
            yield ok(where, "can be bound")


def refusals(user: str | None, paths: Sequence[str], mode: int) -> dict[str, str]:
    """Which of the paths `user` may not use in the given way (os.access bits), and why.

    With root a child process becomes the user; otherwise, or if there is no such account, we try as we are.
    """
    account = None
    if user is not None and os.geteuid() == 0:
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            return {}
    if account is None:
        return _tried(paths, mode, _own_name())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(orjson.dumps(_tried(paths, mode, account.pw_name)))
            status = 0
        finally:
            # Never back into the parent's code, whatever happened.
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    result: dict[str, str] = orjson.loads(answer) if answer else dict.fromkeys(paths, f"cannot be tried as {user}")
    return result


def _tried(paths: Sequence[str], mode: int, name: str) -> dict[str, str]:
    refused = {}
    for path in paths:
        try:
            if not Path(path).exists():
                refused[path] = "does not exist"
            elif not os.access(path, mode):
                wanted = "write in" if mode & os.W_OK else "read"
                refused[path] = f"{name} may not {wanted} it; check its owner and mode"
        except PermissionError:
            refused[path] = f"{name} may not enter its folder; check the owner and mode of the folder"
    return refused


def _uid_of(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return -1


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
