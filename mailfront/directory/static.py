"""A directory that is one TOML file, held in memory. No I/O after loading, no cache in front.

All mistakes of the file are reported at once. An address may stand in it once only, be it a primary address, an alias
or a group. A login name is an address, or a mailbox name that only one user has.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from mailfront.base.errors import ConfigError
from mailfront.base.secret import Secret
from mailfront.base.settings import Settings
from mailfront.directory import passwords
from mailfront.directory.answers import (
    Answer,
    DirectoryRecord,
    Found,
    Group,
    Member,
    NoSuch,
    Source,
    Status,
)
from mailfront.directory.canonical import (
    MAILBOX_NAME,
    can_exist,
    canonical_address,
    login_key,
    lookup_key,
    mailbox_key,
    split_detail,
)
from mailfront.directory.logins import DENIED, LoginAnswer
from mailfront.directory.posters import read_posters
from mailfront.directory.settings import StaticSettings
from mailfront.mail.address import Address, parse_path
from mailfront.mail.names import MailboxKey

Texts = Annotated[tuple[str, ...], Field(strict=False)]

_NO_SUCH = NoSuch(Source.STATIC)


def _addresses(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for text in (value,) if isinstance(value, str) else value:
        address = parse_path(text)
        if address is None or not address.domain or not can_exist(address):
            raise ValueError(f"{text!r} is not an address")
    return value


class StaticUser(Settings):
    """One `[[user]]`."""

    address: str
    mailbox: str = Field(pattern=f"^{MAILBOX_NAME}$")
    id: str | None = Field(default=None, min_length=1, max_length=255)
    password: str | None = Field(default=None, repr=False)
    aliases: Texts = ()
    forward: str | Texts = ()
    keep_copy: bool = False
    host: str | None = Field(default=None, min_length=1)
    status: Literal["active", "suspended"] = "active"
    over_quota: bool = False

    @field_validator("address", "aliases", "forward")
    @classmethod
    def _are_addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return _addresses(value)

    @field_validator("password")
    @classmethod
    def _is_password(cls, value: str | None) -> str | None:
        if value is not None and not passwords.is_password(value):
            raise ValueError('write it as "{SSHA}..." (salted SHA-1, base64) or "{PLAIN}..."')
        return value

    @field_validator("mailbox", "id", "host")
    @classmethod
    def _can_be_shown(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError(f"{value!r} has characters that cannot be shown")
        return value


class StaticGroup(Settings):
    """One `[[group]]`."""

    address: str
    members: Texts = Field(min_length=1)
    owner: str | None = None
    may_post: Texts = ("anyone",)

    @field_validator("address", "members", "owner")
    @classmethod
    def _are_addresses(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return None if value is None else _addresses(value)

    @field_validator("may_post")
    @classmethod
    def _are_posters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        read_posters(value)
        return value


class StaticFile(Settings):
    """The whole file."""

    user: tuple[StaticUser, ...] = Field(default=(), strict=False)
    group: tuple[StaticGroup, ...] = Field(default=(), strict=False)


class StaticDirectory:
    """Answers from one file. Immutable: a reload makes a new one."""

    def __init__(self, settings: StaticSettings) -> None:
        """Read the file. Raises ConfigError with every mistake in it."""
        self._settings = settings
        self._seen = _version(settings.file)
        self._problems: tuple[str, ...] = ()
        self._answers, self._accounts = _load(settings)

    async def account(self, name: str) -> LoginAnswer:
        """Whose login name is this?"""
        found = self._accounts.get(login_key(name) or "")
        return found[0] if found is not None else DENIED

    async def authenticate(self, name: str, password: Secret, mechanism: str) -> LoginAnswer:
        """Is this the password of that name? The mechanism makes no difference here."""
        found = self._accounts.get(login_key(name) or "")
        stored = found[1] if found is not None else None
        is_right = passwords.matches(stored or passwords.NOBODY, password)
        return found[0] if found is not None and is_right else DENIED

    async def recipient(self, address: Address) -> Answer:
        """Who is this address? Tried as it stands, then without `+detail`."""
        answer = self._answers.get(lookup_key(address))
        if answer is not None:
            return answer
        base, detail = split_detail(address)
        if base is not address:
            answer = self._answers.get(lookup_key(base))
            if answer is not None:
                return Found(answer.record, Source.STATIC, 0.0, detail)
        return _NO_SUCH

    async def member(self, member: Member) -> Answer:
        """Who is this member of a group? The file names members by address only."""
        return await self.recipient(member) if isinstance(member, Address) else _NO_SUCH

    async def reachable(self) -> tuple[str, ...]:
        """The lines that a reload would fail with, none if it would not. The file is read again only if it has
        changed: with some thousand users that takes a second."""
        version = _version(self._settings.file)
        if version is None or version != self._seen:
            self._seen, self._problems = version, ()
            try:
                _load(self._settings)
            except ConfigError as error:
                self._problems = error.problems
        return self._problems

    async def close(self) -> None:
        """Nothing is open."""


def _version(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does. None: it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode, found.st_uid, found.st_gid


_Accounts = dict[str, tuple[Found, str | None]]


def _load(settings: StaticSettings) -> tuple[dict[str, Found], _Accounts]:
    """The answers by address, and the users with their stored passwords by login name."""
    path = settings.file
    content = _parse(path)
    answers: dict[str, Found] = {}
    problems: list[str] = []
    for where, address, record in _records(content, one_namespace=settings.one_namespace):
        key = lookup_key(address)
        if key in answers:
            problems.append(f"{path}: {where}: {address} is in the file already; an address belongs to one entry")
        answers[key] = Found(record, Source.STATIC)
    if problems:
        raise ConfigError(tuple(problems))
    return answers, _accounts(content, answers)


def _accounts(content: StaticFile, answers: dict[str, Found]) -> _Accounts:
    found: _Accounts = {}
    mailboxes = Counter(login_key(user.mailbox) for user in content.user)
    for user in content.user:
        answer = answers[lookup_key(_parsed(user.address))]
        names = {login_key(text) for text in (user.address, *user.aliases)}
        if mailboxes[login_key(user.mailbox)] == 1:
            names.add(login_key(user.mailbox))
        found.update((name, (answer, user.password)) for name in names if name is not None)
    return found


def _parse(path: Path) -> StaticFile:
    try:
        return StaticFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError((f"{path}: cannot read it: {error.strerror}; check directory.file",)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError((f"{path}: not valid TOML: {error}",)) from error
    except ValidationError as error:
        lines = (
            f"{path}: {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()
        )
        raise ConfigError(tuple(lines)) from error


def _records(content: StaticFile, *, one_namespace: bool) -> Iterator[tuple[str, Address, DirectoryRecord]]:
    for number, user in enumerate(content.user):
        primary = _parsed(user.address)
        record = DirectoryRecord(
            key=mailbox_key(user.id or user.mailbox, primary.domain, one_namespace=one_namespace),
            mailbox=user.mailbox,
            address=primary,
            status=Status(user.status),
            over_quota=user.over_quota,
            host=user.host,
            forwards=tuple(map(_parsed, (user.forward,) if isinstance(user.forward, str) else user.forward)),
            keeps_copy=user.keep_copy,
            entry=str(primary),
        )
        yield f"user.{number}", primary, record
        for alias in user.aliases:
            yield f"user.{number}.aliases", _parsed(alias), record
    for number, group in enumerate(content.group):
        primary = _parsed(group.address)
        content_of = Group(
            members=tuple(_parsed(member) for member in group.members),
            owner=None if group.owner is None else _parsed(group.owner),
            posters=read_posters(group.may_post),
        )
        record = DirectoryRecord(key=MailboxKey(""), mailbox="", address=primary, group=content_of, entry=str(primary))
        yield f"group.{number}", primary, record


def _parsed(text: str) -> Address:
    address = parse_path(text)
    if address is None:
        raise ValueError(text)
    return canonical_address(address)
