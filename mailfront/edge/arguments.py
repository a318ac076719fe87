"""What stands behind MAIL FROM: and RCPT TO: (RFC 5321 section 4.1.2, with SIZE, 8BITMIME, SMTPUTF8 and DSN). Pure.

Strict where it matters: the address must stand in angle brackets, parameters must be known and well formed, text that
is not UTF-8 is refused. Lenient where common senders need it: spaces after the colon. The case of parameter values is
kept; xtext (RFC 3461 section 4) is checked, not decoded. DSN parameters are only known if DSN was offered.

Every function returns either what was read or the reply that refuses it; none raises.
"""

import re
from typing import NamedTuple

from mailfront.mail.address import Address, parse_path
from mailfront.mail.envelope import NO_OPTIONS, BodyType, RecipientOptions
from mailfront.mail.reply import Reply, reply

MAX_ENVID_CHARS = 100
MAX_ORCPT_CHARS = 500
MAX_SIZE_DIGITS = 20

_PATH = re.compile(r' *<([^<>"]*(?:"(?:[^"\\]|\\.)*"[^<>"]*)*)>(?: +(.*))?', re.DOTALL)
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_XTEXT_UTF8 = re.compile(r"(?:[!-*,-<>-~\u0080-\U0010ffff]|\+[0-9A-F]{2})+")
_NOTIFY = re.compile(r"never|(?:success|failure|delay)(?:,(?:success|failure|delay))*", re.IGNORECASE)
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9\-]+")

_MAIL_SYNTAX = reply(501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")
_RCPT_SYNTAX = reply(501, "5.5.4", "Syntax: RCPT TO:<address> [parameters]")
_BAD_SENDER = reply(553, "5.1.7", "that is not a mail address")
_BAD_RECIPIENT = reply(553, "5.1.3", "that is not a mail address")
_NOT_UTF8 = reply(501, "5.5.2", "that is not UTF-8")
_NEEDS_SMTPUTF8 = reply(553, "5.6.7", "an address that is not ASCII needs the SMTPUTF8 parameter of MAIL")
_BAD_BODY = reply(501, "5.5.4", "BODY is 7BIT or 8BITMIME")
_BAD_SIZE = reply(501, "5.5.4", "SIZE is a number of bytes")
_BAD_RET = reply(501, "5.5.4", "RET is FULL or HDRS, once")
_BAD_ENVID = reply(501, "5.5.4", "ENVID is xtext of at most 100 characters, once")
_BAD_NOTIFY = reply(501, "5.5.4", "NOTIFY is NEVER, or some of SUCCESS,FAILURE,DELAY, once")
_BAD_ORCPT = reply(501, "5.5.4", "ORCPT is an address type, a semicolon and xtext, at most 500 characters, once")
_TWICE = reply(501, "5.5.4", "a parameter was given twice")

_BODY_TYPES = {"7BIT": BodyType.SEVENBIT, "8BITMIME": BodyType.EIGHTBITMIME}


class MailArguments(NamedTuple):
    """What MAIL said. `reverse_path` None is the null reverse-path."""

    reverse_path: Address | None
    size_bytes: int | None = None
    body_type: BodyType = BodyType.SEVENBIT
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None


def read_mail(argument: str | None, *, extended: bool, dsn: bool) -> MailArguments | Reply:
    """Read the argument of MAIL. `extended`: the client said EHLO; `dsn`: DSN was offered."""
    split = _split(argument, "FROM:", _MAIL_SYNTAX)
    if isinstance(split, Reply):
        return split
    path, text = split
    address: Address | None = None
    if path:
        address = parse_path(path)
        if address is None or not address.domain:
            return _BAD_SENDER
    if not text:
        if address is not None and not address.is_ascii:
            return _NEEDS_SMTPUTF8
        return MailArguments(reverse_path=address)
    parameters = _parameters(text) if extended else _MAIL_SYNTAX
    return parameters if isinstance(parameters, Reply) else _mail_arguments(address, parameters, dsn=dsn)


def _mail_arguments(address: Address | None, parameters: dict[str, str | None], *, dsn: bool) -> MailArguments | Reply:
    size_bytes: int | None = None
    body_type = BodyType.SEVENBIT
    smtputf8 = False
    ret: str | None = None
    envid: str | None = None
    for keyword, value in parameters.items():
        if keyword == "SIZE":
            if value is None or not (value.isascii() and value.isdigit()) or len(value) > MAX_SIZE_DIGITS:
                return _BAD_SIZE
            size_bytes = int(value)
        elif keyword == "BODY":
            known = _BODY_TYPES.get((value or "").upper())
            if known is None:
                return _BAD_BODY
            body_type = known
        elif keyword == "SMTPUTF8" and value is None:
            smtputf8 = True
        elif keyword == "RET" and dsn:
            if value is None or value.upper() not in ("FULL", "HDRS"):
                return _BAD_RET
            ret = value
        elif keyword == "ENVID" and dsn:
            if value is None or len(value) > MAX_ENVID_CHARS or _XTEXT.fullmatch(value) is None:
                return _BAD_ENVID
            envid = value
        else:
            return _unknown("MAIL", keyword)
    if address is not None and not smtputf8 and not address.is_ascii:
        return _NEEDS_SMTPUTF8
    return MailArguments(
        reverse_path=address, size_bytes=size_bytes, body_type=body_type, smtputf8=smtputf8, ret=ret, envid=envid
    )


def read_rcpt(
    argument: str | None, *, extended: bool, dsn: bool, smtputf8: bool
) -> tuple[Address, RecipientOptions] | Reply:
    """Read the argument of RCPT. `smtputf8`: MAIL had that parameter."""
    split = _split(argument, "TO:", _RCPT_SYNTAX)
    if isinstance(split, Reply):
        return split
    path, text = split
    address = parse_path(path)
    if address is None:
        return _BAD_RECIPIENT
    if not smtputf8 and not address.is_ascii:
        return _NEEDS_SMTPUTF8
    if not text:
        return address, NO_OPTIONS
    parameters = _parameters(text) if extended else _RCPT_SYNTAX
    if isinstance(parameters, Reply):
        return parameters
    notify: str | None = None
    orcpt: str | None = None
    for keyword, value in parameters.items():
        if keyword == "NOTIFY" and dsn:
            if value is None or _NOTIFY.fullmatch(value) is None:
                return _BAD_NOTIFY
            notify = value
        elif keyword == "ORCPT" and dsn:
            if value is None or not _is_orcpt(value, smtputf8=smtputf8):
                return _BAD_ORCPT
            orcpt = value
        else:
            return _unknown("RCPT", keyword)
    return address, RecipientOptions(notify=notify, orcpt=orcpt)


def _is_orcpt(value: str, *, smtputf8: bool) -> bool:
    kind, semicolon, text = value.partition(";")
    if not semicolon or len(value) > MAX_ORCPT_CHARS or _ADDRESS_TYPE.fullmatch(kind) is None:
        return False
    # RFC 6533: an address of type utf-8 may be sent as UTF-8 where SMTPUTF8 is used.
    return (_XTEXT_UTF8 if smtputf8 else _XTEXT).fullmatch(text) is not None


def _split(argument: str | None, keyword: str, syntax: Reply) -> tuple[str, str] | Reply:
    """Take apart `FROM:<path> parameters`."""
    if argument is None or argument[: len(keyword)].upper() != keyword:
        return syntax
    if not argument.isascii() and not _is_utf8(argument):
        return _NOT_UTF8
    match = _PATH.fullmatch(argument, len(keyword))
    return syntax if match is None else (match[1], match[2] or "")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parameters(text: str) -> dict[str, str | None] | Reply:
    """Read `KEY=value KEY ...`. Keywords come in upper case, values as written, None where there was no `=`."""
    found: dict[str, str | None] = {}
    for part in text.split():
        keyword, equals, value = part.partition("=")
        if _KEYWORD.fullmatch(keyword) is None or (equals and not value) or not part.isprintable():
            return reply(501, "5.5.4", f"that is not a parameter: {part[:60]}")
        keyword = keyword.upper()
        if keyword in found:
            return _TWICE
        found[keyword] = value if equals else None
    return found


def _unknown(command: str, keyword: str) -> Reply:
    return reply(555, "5.5.4", f"parameter {keyword[:60]} of {command} is not known here")
