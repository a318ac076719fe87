"""The lines on the admin socket. Pure: bytes to values and back.

The client sends one request per line; the server answers each with any number of notes and one end:

    > {"verb": "queue.list", "arguments": {"limit": 50}}
    < {"progress": {"done": 3000, "total": 10000, "what": "rows"}}     shown as a bar; total 0: not known
    < {"alive": true}                                                  every `ALIVE_EVERY_S` while it works
    < {"result": ...}         or        {"error": {"kind": "failed", "text": "no message has this id"}}

A line is UTF-8 JSON and ends in LF. Longest line: `MAX_REQUEST_BYTES` and `MAX_ANSWER_BYTES`. Who asks is not in the
line: the kernel says it (SO_PEERCRED).
"""

from dataclasses import dataclass
from typing import Any

import orjson

from mailfront.admin.errors import AdminError, Kind
from mailfront.base.errors import RemoteProtocolError

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""A message with 20,000 recipients that is imported is one line."""
MAX_ANSWER_BYTES = 32 * 1024 * 1024
ALIVE_EVERY_S = 5.0

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class Progress:
    """How far long work has come. `total` 0: not known."""

    done: int
    total: int
    what: str


@dataclass(frozen=True, slots=True)
class Result:
    """The end of an answer: what was asked for."""

    value: Any


@dataclass(frozen=True, slots=True)
class Alive:
    """The server still works on it."""


def write_request(verb: str, arguments: dict[str, Any]) -> bytes:
    """Make a request line."""
    return orjson.dumps({"verb": verb, "arguments": arguments}, option=_OPTIONS)


def read_request(line: bytes) -> tuple[str, dict[str, Any]]:
    """Read a request line into verb and arguments. Raises RemoteProtocolError."""
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError("the request is not a line of JSON") from error
    if not isinstance(request, dict):
        raise RemoteProtocolError("the request is not a JSON object")
    verb, arguments = request.get("verb"), request.get("arguments", {})
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise RemoteProtocolError('the request needs "verb", a string, and "arguments", an object')
    return verb, arguments


def write_answer(part: Progress | Result | Alive | AdminError) -> bytes:
    """Make one line of an answer."""
    match part:
        case Progress(done, total, what):
            document: dict[str, Any] = {"progress": {"done": done, "total": total, "what": what}}
        case Result(value):
            document = {"result": value}
        case Alive():
            document = {"alive": True}
        case AdminError():
            document = {"error": {"kind": part.kind.value, "text": str(part)}}
    return orjson.dumps(document, option=_OPTIONS)


def read_answer(line: bytes) -> Progress | Result | Alive | AdminError:
    """Read one line of an answer. Raises RemoteProtocolError."""
    try:
        document = orjson.loads(line)
        match document:
            case {"progress": {"done": int(done), "total": int(total), "what": str(what)}}:
                return Progress(done, total, what)
            case {"result": value}:
                return Result(value)
            case {"alive": True}:
                return Alive()
            case {"error": {"kind": str(kind), "text": str(text)}}:
                return AdminError(text, Kind(kind))
    except ValueError as error:
        raise RemoteProtocolError("the server's answer cannot be read; is it another version?") from error
    raise RemoteProtocolError("the server's answer cannot be understood; is it another version?")
