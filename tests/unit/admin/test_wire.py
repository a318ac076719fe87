"""The lines on the admin socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.admin.errors import AdminError, Kind
from mailfront.admin.wire import Alive, Progress, Result, read_answer, read_request, write_answer, write_request
from mailfront.base.errors import RemoteProtocolError


def test_a_request_reads_back() -> None:
    """Verb and arguments arrive as they were."""
    assert read_request(write_request("queue.list", {"limit": 5})) == ("queue.list", {"limit": 5})


@pytest.mark.parametrize("part", [Progress(3, 10, "rows"), Result({"a": [1, None]}), Alive()])
def test_an_answer_reads_back(part: Progress | Result | Alive) -> None:
    """Every part of an answer is one line."""
    line = write_answer(part)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert read_answer(line) == part


def test_an_error_reads_back_with_its_kind() -> None:
    """The kind decides about the exit code."""
    error = read_answer(write_answer(AdminError("not\nnow", Kind.LATER)))
    assert isinstance(error, AdminError)
    assert (str(error), error.kind) == ("not\nnow", Kind.LATER)


@given(st.binary(max_size=200))
def test_garbage_gives_only_protocol_errors(line: bytes) -> None:
    """Nothing else escapes, whatever arrives."""
    for read in (read_request, read_answer):
        try:
            read(line)
        except RemoteProtocolError:
            pass


@pytest.mark.parametrize("line", [b"[]", b'{"verb": 1}', b'{"verb": "a", "arguments": []}', b'"x"', b""])
def test_requests_of_another_shape_are_refused(line: bytes) -> None:
    """A request is an object with a verb and arguments."""
    with pytest.raises(RemoteProtocolError):
        read_request(line)


@pytest.mark.parametrize("line", [b'{"error": {"kind": "odd", "text": "x"}}', b'{"progress": {"done": "1"}}', b"{}"])
def test_answers_of_another_version_are_said_to_be(line: bytes) -> None:
    """An old command line does not misread a new server."""
    with pytest.raises(RemoteProtocolError, match="another version"):
        read_answer(line)
