"""However the bytes of a dialogue are cut, the same events come out."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.secret import Secret
from mailfront.protocol.imap_login import ImapLogin
from mailfront.protocol.imap_node_login import ImapNodeLogin
from mailfront.protocol.login_dialogue import (
    ClientIdentity,
    Closing,
    LoginAsked,
    NodeCredentials,
    Offer,
    Refusal,
    ToClient,
)

OFFER = Offer(hostname="mx1.example.edu", starttls=True, passwords=True)
COMMANDS = st.sampled_from(
    [
        b"a NOOP\r\n", b"b CAPABILITY\r\n", b"c LOGIN ana secret\r\n", b"d LOGIN {3}\r\nana {6+}\r\nsecret\r\n",
        b'e ID ("name" "x" "x-y" {1+}\r\nz)\r\n', b"f AUTHENTICATE PLAIN AGFuYQBzZWNyZXQ=\r\n",
        b"g AUTHENTICATE LOGIN\r\nYW5h\r\nc2VjcmV0\r\n", b"h LOGIN ((((\r\n", b"\r\n", b"i SELECT {3+}\r\nabc\r\n",
        b"j LOGIN ana {9000}\r\n", b"k AUTHENTICATE PLAIN\r\n*\r\n", b"\0\r\n", b"m LOGOUT\r\n",
        b"n LOGIN ( {3+}\r\nabc\r\n", b'l LOGIN "a\\"b" x\r\n',
    ]
)  # fmt: skip


def client_run(data: bytes, cuts: list[int]) -> tuple[bytes, list[tuple[str, bytes]], str]:
    """What is said, who asked to log in, and how it ended; every login is refused."""
    core = ImapLogin(OFFER)
    said, logins, end = b"", [], ""
    for start, stop in pairwise([0, *cuts, len(data)]):
        core.receive(data[start:stop])
        while (event := core.next_event()) is not None:
            if isinstance(event, ToClient):
                said += event.data
            elif isinstance(event, LoginAsked):
                logins.append((event.name, event.secret.reveal()))
                said += core.refuse(Refusal.FAILED)
            elif isinstance(event, Closing):
                said, end = said + event.data, event.reason
    return said, logins, end


@given(st.lists(COMMANDS, max_size=8), st.data())
def test_any_cut_of_a_clients_bytes_gives_the_same_dialogue(commands: list[bytes], draw: st.DataObject) -> None:
    """Answers, logins and the end depend on the bytes only."""
    data = b"".join(commands)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=12)))
    assert client_run(data, cuts) == client_run(data, [])


@given(st.binary(max_size=300))
def test_no_bytes_of_a_client_break_the_core(data: bytes) -> None:
    """Whatever comes, there is an answer or the core waits for more; it never raises."""
    assert client_run(data, []) == client_run(data, list(range(1, len(data))))


GREETINGS = st.sampled_from(
    [b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN ID] hi\r\n", b"* OK hi\r\n", b"* BYE x\r\n"]
)
LINES = st.sampled_from(
    [
        b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n", b"c OK\r\n", b"+ \r\n", b"i OK\r\n", b"* ID {4}\r\nl OK\r\n",
        b"l OK [CAPABILITY IMAP4rev1 IDLE] in\r\n", b"l NO no\r\n", b"* 1 EXISTS\r\n", b"* BYE x\r\n", b"x OK\r\n",
    ]
)  # fmt: skip


def node_run(data: bytes, cuts: list[int]) -> list[str]:
    """All events, in words."""
    client = ClientIdentity(ip="192.0.2.7", port=1, local_ip="", local_port=0, session="s", encrypted=False)
    core = ImapNodeLogin(NodeCredentials(user="ana", secret=Secret(b"secret")), client, False)
    found = []
    try:
        for start, stop in pairwise([0, *cuts, len(data)]):
            core.receive(data[start:stop])
            while (event := core.next_event()) is not None:
                found.append(type(event).__name__ + str(getattr(event, "capabilities", "")))
    except RemoteProtocolError:
        found.append("broken")
    return found


@given(GREETINGS, st.lists(LINES, max_size=8), st.data())
def test_any_cut_of_a_nodes_bytes_gives_the_same_login(
    greeting: bytes, lines: list[bytes], draw: st.DataObject
) -> None:
    """What is sent and how it ends depend on the bytes only."""
    data = greeting + b"".join(lines)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=12)))
    assert node_run(data, cuts) == node_run(data, [])
