"""`mailfront queue export`: messages with their recipients to a file.

The file is a tar archive (docs/reference/queue-export.md): `queue.json` first, then for each message `ID.json` and
`ID.eml`, then `end.json`. It is written as a stream, so it may be a pipe, and one message is in memory at a time (its
body on disk, beyond a MiB).

An export is whole or not there: a file is written beside its name and renamed at the end.
"""

import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from mailfront.cli.conventions import (
    EXIT_FAILED,
    EXIT_USAGE,
    Failed,
    Verb,
    config_path,
    json_option,
    reason_option,
)
from mailfront.cli.output import ProgressBar, aside, show_json
from mailfront.cli.queue_source import QueueSource
from mailfront.cli.selectors import selection, selector_options

FORMAT, VERSION = "mailfront-queue", 1
_MEMORY_BYTES = 1024 * 1024


class _Gone(Exception):
    """The message left the queue while it was read."""


@click.command(cls=Verb)
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@selector_options
@click.option("--everything", is_flag=True, help="All rows; needed if no condition is given.")
@reason_option
@json_option
def export(target: Path, everything: bool, reason: str, as_json: bool, **conditions: Any) -> None:
    """Write messages and their selected recipients to FILE, a tar archive; `-` is standard output.

    Nothing is taken out of the queue. Reads the database itself if no server runs. `queue import` reads the file back.
    """
    chosen = selection(conditions)
    if not chosen and not everything:
        raise Failed(
            "say which recipients: --id, --sender, --recipient, --node, --state, --older; or --everything", EXIT_USAGE
        )
    if str(target) == "-" and (as_json or sys.stdout.isatty()):
        raise Failed("an archive on standard output needs a pipe or a file, and no --json", EXIT_USAGE)
    request = {**chosen, "everything": everything, "reason": reason}
    with QueueSource() as source, _opened(target) as out, tarfile.open(fileobj=out, mode="w|") as archive:
        done = _export(source, request, archive)
    if as_json:
        show_json(done)
    else:
        for problem in done["problems"]:
            aside(problem)
        if done["handed_off"]:
            aside(f"{done['handed_off']} handed-off recipients are in handoff mailboxes of nodes, and not in the file")
        aside(f"{done['messages']} messages with {done['recipients']} recipients written")
    if done["problems"]:
        click.get_current_context().exit(EXIT_FAILED)


def _export(source: QueueSource, request: dict[str, Any], archive: tarfile.TarFile) -> dict[str, Any]:
    done: dict[str, Any] = {"messages": 0, "recipients": 0, "handed_off": 0, "gone": 0, "problems": []}
    head = {"format": FORMAT, "version": VERSION, "cluster": _cluster(), "exported_s": round(time.time(), 3)}
    _add_document(archive, "queue.json", head)
    total, seen = 0, 0
    with ProgressBar() as bar:
        while True:
            page = source.ask("queue.export", request)
            total = total or page["total"]
            done["handed_off"] += page["handed_off_count"]
            done["problems"] += page["damaged"]
            for each in page["messages"]:
                _export_message(source, each, archive, done)
            seen += page["rows_count"]
            bar.show_count(seen, total, "recipients")
            if page["next"] is None:
                break
            request = {**request, "after": page["next"]}
    _add_document(archive, "end.json", {name: done[name] for name in ("messages", "recipients")})
    return done


def _export_message(
    source: QueueSource, document: dict[str, Any], archive: tarfile.TarFile, done: dict[str, Any]
) -> None:
    from mailfront.admin.errors import AdminError, Kind

    message = document["message"]
    if not document["recipients"]:
        return
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as body:
        try:
            document["body_sha256"] = _read_body(source, message["id"], message["size_bytes"], body)
        except _Gone:
            done["gone"] += 1
            return
        except AdminError as error:
            if error.kind is Kind.LATER:
                raise
            done["problems"].append(str(error))
            return
        _add_document(archive, f"{message['id']}.json", document, at_s=message["arrived_s"])
        member = _member(f"{message['id']}.eml", message["size_bytes"], message["arrived_s"])
        body.seek(0)
        archive.addfile(member, body)
    done["messages"] += 1
    done["recipients"] += len(document["recipients"])


def _read_body(source: QueueSource, id_: str, size_bytes: int, out: IO[bytes]) -> str:
    """Copy a stored body. Returns its SHA-256 in hex. Raises _Gone, or AdminError if it is damaged."""
    from mailfront.admin.errors import AdminError

    digest, left_bytes, number = hashlib.sha256(), size_bytes, 0
    while left_bytes > 0:
        data = source.ask("queue.piece", {"id": id_, "number": number})
        if data is None:
            if not source.ask("queue.list", {"ids": [id_], "limit": 1})["rows"]:
                raise _Gone
            raise AdminError(f"{id_}: the stored body is not {size_bytes} bytes long")
        piece = base64.b64decode(data)
        digest.update(piece)
        out.write(piece)
        left_bytes -= len(piece)
        number += 1
    if left_bytes < 0:
        raise AdminError(f"{id_}: the stored body is longer than {size_bytes} bytes")
    return digest.hexdigest()


@contextmanager
def _opened(target: Path) -> Iterator[IO[bytes]]:
    """The file to write to: only its owner may read it, and it has its name when it is whole and on disk."""
    if str(target) == "-":
        yield sys.stdout.buffer
        return
    fresh = target.with_name(target.name + ".part")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        fresh.rename(target)
    except OSError as error:
        raise Failed(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _member(name: str, size_bytes: int, at_s: float) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size_bytes, int(at_s), 0o600
    return member


def _add_document(archive: tarfile.TarFile, name: str, document: dict[str, Any], at_s: float | None = None) -> None:
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    archive.addfile(_member(name, len(data), time.time() if at_s is None else at_s), io.BytesIO(data))


def _cluster() -> str:
    """`storage.cluster` as it stands in the file: mailbox keys of an export mean something only there."""
    import tomllib

    try:
        storage = tomllib.loads(config_path().read_text()).get("storage", {})
    except (OSError, ValueError):
        return ""
    return str(storage.get("cluster", "")) if isinstance(storage, dict) else ""
