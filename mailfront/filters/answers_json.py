"""A verdict written as JSON: what the kind `command` reads from its program. Pure; nothing in it is believed here.

    {"action": "reject", "code": 550, "enhanced": "5.7.1", "text": "no", "reason": "why", "score": 7.5,
     "edits": [["add_header", "X-A", "b"], ["insert_header", 0, "X-B", "c"], ["change_header", "Subject", 1, "new"],
               ["delete_header", "X-C"], ["delete_header", "X-D", 2], ["add_recipient", "a@example.edu"],
               ["delete_recipient", "b@example.edu"], ["change_sender", "c@example.edu"],
               ["replace_body", "text with CRLF line ends"]]}

A sender of "" is the null reverse-path.

Every member may be absent; nothing at all is `continue`. Unknown members and edits are errors, not ignored.
"""

from typing import Any

import orjson

from mailfront.filters.failure import FilterFailed
from mailfront.mail.address import Address, parse_path
from mailfront.mail.verdict import (
    CONTINUE,
    Action,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    Edit,
    InsertHeader,
    ReplaceBody,
    Verdict,
)

_MEMBERS = frozenset({"action", "code", "enhanced", "text", "reason", "score", "edits"})


def read_verdict(data: bytes) -> Verdict:
    """Read one verdict. Raises FilterFailed for what is none."""
    if not data.strip():
        return CONTINUE
    try:
        said = orjson.loads(data)
        if not isinstance(said, dict) or not _MEMBERS.issuperset(said):
            raise ValueError(f"not an object with members of {', '.join(sorted(_MEMBERS))}")
        return Verdict(
            action=Action(said.get("action", "continue")),
            code=int(said.get("code", 0)),
            enhanced=str(said.get("enhanced", "")),
            text=str(said.get("text", "")),
            reason=str(said.get("reason", "")),
            score=None if said.get("score") is None else float(said["score"]),
            edits=tuple(_edit(*each) for each in said.get("edits", ())),
        )
    except (ValueError, TypeError) as error:
        raise FilterFailed(f"its answer is no verdict: {error}") from error


def _edit(what: str, *values: Any) -> Edit:
    match [what, *values]:
        case ["add_header", str(name), str(value)]:
            return AddHeader(name, value)
        case ["insert_header", int(position), str(name), str(value)]:
            return InsertHeader(position, name, value)
        case ["change_header", str(name), int(occurrence), str(value)]:
            return ChangeHeader(name, occurrence, value)
        case ["delete_header", str(name)]:
            return DeleteHeader(name)
        case ["delete_header", str(name), int(occurrence)]:
            return DeleteHeader(name, occurrence)
        case ["add_recipient", str(address)]:
            return AddRecipient(_address(address))
        case ["delete_recipient", str(address)]:
            return DeleteRecipient(_address(address))
        case ["change_sender", str(address)]:
            return ChangeSender(_address(address) if address else None)
        case ["replace_body", str(text)]:
            return ReplaceBody(text.encode())
    raise ValueError(f"the edit {what!r} with {len(values)} values is unknown")


def _address(text: str) -> Address:
    address = parse_path(text)
    if address is None:
        raise ValueError(f"{text!r} is no address")
    return address
