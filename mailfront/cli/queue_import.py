"""`mailfront queue import`: messages of an export into the queue. See `queue_export` for the file.

Read as a stream, so it may be a pipe. Nothing is unpacked: names in the archive are only compared. Each message is one
transaction of the server; a message that is there already, or was imported before, changes nothing, so an import that
broke off is begun again with the same file.
"""

import base64
import hashlib
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

import click

from mailfront.admin.errors import AdminError, Kind
from mailfront.cli.conventions import EXIT_FAILED, Failed, Verb, admin_client, json_option, reason_option
from mailfront.cli.output import ProgressBar, aside, show_json
from mailfront.cli.queue_export import FORMAT, VERSION

_MEMORY_BYTES = 1024 * 1024
_PIECE_BYTES = 256 * 1024
_MOST_DOCUMENT_BYTES = 7 * 1024 * 1024


@click.command("import", cls=Verb)
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--resolve", is_flag=True, help="Look every recipient up anew, by its address.")
@reason_option
@json_option
def import_(source: Path, resolve: bool, reason: str, as_json: bool) -> None:
    """Take the messages of an export into the queue; FILE `-` is standard input. The same file again changes nothing.

    Recipients come in with the states that they had. They are looked up anew by their addresses if the file is of
    another cluster (`storage.cluster`).
    """
    done: dict[str, Any] = {"messages": 0, "recipients": 0, "here_before": 0, "problems": []}
    try:
        with _opened(source) as opened, tarfile.open(fileobj=opened, mode="r|") as archive:
            _Import(archive, resolve=resolve, done=done).run(str(source), reason)
    except (tarfile.TarError, EOFError) as error:
        done["problems"].append(f"{source}: this is no whole archive: {error}")
    except OSError as error:
        raise Failed(f"{source}: cannot be read: {error.strerror or error}") from error
    if as_json:
        show_json(done)
    else:
        for problem in done["problems"]:
            aside(problem)
        aside(
            f"{done['messages']} messages with {done['recipients']} recipients came in; "
            f"{done['here_before']} were here before"
        )
    if done["problems"]:
        click.get_current_context().exit(EXIT_FAILED)


def _opened(source: Path) -> IO[bytes]:
    return sys.stdin.buffer if str(source) == "-" else source.open("rb")


class _Import:
    """One archive on its way to the server. What became of it is counted in `done`."""

    def __init__(self, archive: tarfile.TarFile, *, resolve: bool, done: dict[str, Any]) -> None:
        self._archive = archive
        self._resolve = resolve
        self._done = done
        self._client = admin_client()
        self._audit = 0
        self._cluster = ""

    def run(self, name: str, reason: str) -> None:
        """Bring everything in. Raises Failed if it is no export, AdminError if the server cannot take it now."""
        head = self._document(self._archive.next(), "queue.json")
        if head.get("format") != FORMAT or head.get("version") != VERSION:
            raise Failed(f"{name}: no export of a mailfront queue, or one of a newer mailfront")
        self._cluster = str(head.get("cluster", ""))
        with self._client, ProgressBar() as bar:
            self._audit = self._client.call("queue.import_note", {"source": name[-300:], "reason": reason})
            while (member := self._archive.next()) is not None:
                if member.name == "end.json":
                    return
                self._message(member)
                bar.show_count(self._done["messages"] + self._done["here_before"], 0, "messages")
        self._done["problems"].append(f"{name}: the end is missing; what was whole came in")

    def _document(self, member: tarfile.TarInfo | None, expected: str = ".json") -> dict[str, Any]:
        if member is None or not member.isfile() or not member.name.endswith(expected):
            raise Failed(f"{expected} is expected here: this is no export of a mailfront queue")
        if member.size > _MOST_DOCUMENT_BYTES:
            raise Failed(f"{member.name}: {member.size} bytes are more than the protocol allows")
        return self._parsed(self._read(member), member.name)

    def _parsed(self, data: bytes, name: str) -> dict[str, Any]:
        try:
            document = json.loads(data)
        except ValueError as error:
            raise Failed(f"{name}: not JSON: {error}") from error
        if not isinstance(document, dict):
            raise Failed(f"{name}: not a JSON object")
        return document

    def _read(self, member: tarfile.TarInfo) -> bytes:
        opened = self._archive.extractfile(member)
        assert opened is not None
        return opened.read()

    def _message(self, member: tarfile.TarInfo) -> None:
        """One document and the body that follows it."""
        document = self._document(member)
        sha256 = document.pop("body_sha256", "")
        body = self._archive.next()
        if body is None or not body.isfile() or body.name != member.name.removesuffix(".json") + ".eml":
            raise Failed(f"{member.name}: the file with the message does not follow")
        opened = self._archive.extractfile(body)
        assert opened is not None
        request = {**document, "cluster": self._cluster, "resolve": self._resolve, "audit": self._audit}
        with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as spooled:
            digest = hashlib.sha256()
            while piece := opened.read(_PIECE_BYTES):
                digest.update(piece)
                spooled.write(piece)
            if digest.hexdigest() != sha256:
                self._done["problems"].append(f"{body.name}: damaged: its checksum is not that of the export")
                return
            spooled.seek(0)
            self._send(member.name, request, spooled, body.size)

    def _send(self, name: str, request: dict[str, Any], body: Any, size_bytes: int) -> None:
        try:
            if size_bytes <= _PIECE_BYTES:
                request["data"] = base64.b64encode(body.read()).decode()
            elif self._client.call("queue.import_begin", request)["answer"] == "body":
                self._send_pieces(request["message"]["id"], body)
            answer = self._client.call("queue.import", request)
        except AdminError as error:
            if error.kind is Kind.LATER:
                raise
            self._done["problems"].append(f"{name}: {error}")
            return
        if answer["answer"] == "new":
            self._done["messages"] += 1
            self._done["recipients"] += answer["recipients"]
        elif answer["answer"] == "here":
            self._done["here_before"] += 1
        else:
            self._done["problems"].append(f"{name}: its body did not arrive whole; import the file again")

    def _send_pieces(self, id_: str, body: Any) -> None:
        number = 0
        while piece := body.read(_PIECE_BYTES):
            data = base64.b64encode(piece).decode()
            self._client.call("queue.import_piece", {"id": id_, "number": number, "data": data})
            number += 1
