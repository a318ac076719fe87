"""A directory that is one TOML file, held in memory. No I/O after loading, no cache in front.

All mistakes of the file are reported at once. An address may stand in it once only, be it a primary address, an alias
or a group. Passwords are checked for their form and not kept: this version serves no logins.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from mailfront.base.errors import ConfigError
from mailfront.base.settings import Settings
from mailfront.directory.answers import Answer, DirectoryRecord, Found, NoSuch, Source, Status
from mailfront.directory.canonical import (
    MAILBOX_NAME,
    can_exist,
    canonical_address,
    lookup_key,
    mailbox_key,
    split_detail,
)
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
    password: str | None = Field(default=None, pattern=r"^\{(SSHA|PLAIN)\}.+$")
    aliases: Texts = ()
    forward: str | Texts = ()
    host: str | None = Field(default=None, min_length=1)
    status: Literal["active", "suspended"] = "active"
    over_quota: bool = False

    @field_validator("address", "aliases")
    @classmethod
    def _are_addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return _addresses(value)

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

    @field_validator("address", "members")
    @classmethod
    def _are_addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return _addresses(value)


class StaticFile(Settings):
    """The whole file."""

    user: tuple[StaticUser, ...] = Field(default=(), strict=False)
    group: tuple[StaticGroup, ...] = Field(default=(), strict=False)


class StaticDirectory:
    """Answers from one file. Immutable: a reload makes a new one."""

    def __init__(self, settings: StaticSettings) -> None:
        """Read the file. Raises ConfigError with every mistake in it."""
        self._settings = settings
        self._answers = _load(settings)

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

    async def reachable(self) -> tuple[str, ...]:
        """Read the file again: the lines that a reload would fail with, none if it would not."""
        try:
            _load(self._settings)
        except ConfigError as error:
            return error.problems
        return ()

    async def close(self) -> None:
        """Nothing is open."""


def _load(settings: StaticSettings) -> dict[str, Found]:
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
    return answers


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
            redirected=bool(user.forward),
        )
        yield f"user.{number}", primary, record
        for alias in user.aliases:
            yield f"user.{number}.aliases", _parsed(alias), record
    for number, group in enumerate(content.group):
        primary = _parsed(group.address)
        yield (
            f"group.{number}",
            primary,
            DirectoryRecord(key=MailboxKey(""), mailbox="", address=primary, redirected=True),
        )


def _parsed(text: str) -> Address:
    address = parse_path(text)
    if address is None:
        raise ValueError(text)
    return canonical_address(address)
