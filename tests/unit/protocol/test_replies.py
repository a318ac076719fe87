"""Reading replies: what is one, what is not, and the limits."""

import pytest

from mailfront.base.errors import RemoteProtocolError
from mailfront.mail.reply import Reply
from mailfront.protocol.replies import MAX_LINE_BYTES, MAX_REPLY_LINES, ReplyReader


def read_all(*pieces: bytes) -> list[Reply]:
    """Feed the pieces and return all whole replies."""
    reader, replies = ReplyReader(), []
    for piece in pieces:
        reader.receive(piece)
        while (reply := reader.next_reply()) is not None:
            replies.append(reply)
    return replies


def test_single_line() -> None:
    """One line is one reply, with its enhanced code apart from its text."""
    assert read_all(b"250 2.1.0 sender ok\r\n") == [Reply(250, "2.1.0", ("sender ok",))]


def test_several_lines_are_one_reply() -> None:
    """Hyphenated lines belong to the reply that the spaced line ends."""
    assert read_all(b"250-a\r\n250-b\r\n250 c\r\n354 go\r\n") == [
        Reply(250, "", ("a", "b", "c")),
        Reply(354, "", ("go",)),
    ]


def test_enhanced_code_of_a_later_line_counts() -> None:
    """Cyrus puts 5.1.1 into the last line only; it must not be lost."""
    (reply,) = read_all(b"550-Mailbox unknown.\r\n550 5.1.1 User unknown\r\n")
    assert reply == Reply(550, "5.1.1", ("Mailbox unknown.", "User unknown"))


def test_every_byte_alone() -> None:
    """Any chunking gives the same replies."""
    data = b"250-x\r\n250 2.0.0 y\r\n421 4.3.2 bye\n"
    assert read_all(*(data[at : at + 1] for at in range(len(data)))) == read_all(data)


def test_code_alone_and_bare_newline() -> None:
    """A code without text, and a line ended by LF only, are still replies."""
    assert read_all(b"250\r\n", b"354\n") == [Reply(250, "", ("",)), Reply(354, "", ("",))]


def test_invented_codes_count_by_their_class() -> None:
    """571 is not in RFC 5321, and a client acts on its first digit."""
    (reply,) = read_all(b"571 5.7.1 go away\r\n")
    assert (reply.code, reply.enhanced) == (554, "5.7.1")


def test_enhanced_code_of_another_class_is_dropped() -> None:
    """A node cannot say 250 and 5.1.1 in one reply."""
    assert read_all(b"250 5.1.1 what\r\n") == [Reply(250, "", ("what",))]


@pytest.mark.parametrize(
    "line", [b"hello\r\n", b"25 x\r\n", b"100 x\r\n", b"600 x\r\n", b"250x\r\n", b"\r\n", b"2\xb50 x\r\n"]
)
def test_what_is_no_reply(line: bytes) -> None:
    """Anything that is not a reply ends the trust in the stream."""
    with pytest.raises(RemoteProtocolError):
        read_all(line)


def test_code_may_not_change() -> None:
    """All lines of one reply carry the same code."""
    with pytest.raises(RemoteProtocolError, match="from 250 to 550"):
        read_all(b"250-a\r\n550 b\r\n")


@pytest.mark.parametrize(
    "pieces",
    [
        (b"250 " + b"x" * MAX_LINE_BYTES,),
        (b"250 " + b"x" * MAX_LINE_BYTES + b"\r\n",),
        (b"250-x\r\n" * (MAX_REPLY_LINES + 1),),
        (b"250-" + b"x" * 4000 + b"\r\n",) * 9,
    ],
)
def test_limits(pieces: tuple[bytes, ...]) -> None:
    """Endless lines and endless replies are cut off."""
    with pytest.raises(RemoteProtocolError, match=r"more than|longer than"):
        read_all(*pieces)


def test_residue() -> None:
    """Residue is what was received and is not a whole reply yet, or not taken yet."""
    reader = ReplyReader()
    assert not reader.has_residue
    reader.receive(b"250 ok\r\n2")
    assert reader.next_reply() is not None
    assert reader.has_residue
    reader.receive(b"50-x\r\n")
    assert reader.next_reply() is None
    assert reader.has_residue
    reader.receive(b"250 y\r\n")
    assert reader.next_reply() is not None
    assert not reader.has_residue


def test_hostile_text_is_made_printable() -> None:
    """Control characters of a peer never reach a log or a client."""
    (reply,) = read_all(b"550 5.7.1 no\x00\x1b[31m\rway\r\n")
    assert reply.text == "no??[31m?way"
