"""The POP3 and ManageSieve login cores under any chunking, and against any bytes."""

from base64 import b64encode
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.secret import Secret
from mailfront.protocol.login_dialogue import ClientIdentity, Closing, LoginAsked, NodeCredentials, Offer, Refusal
from mailfront.protocol.pop3_login import Pop3Login
from mailfront.protocol.pop3_node_login import Pop3NodeLogin
from mailfront.protocol.sieve_login import SieveLogin
from mailfront.protocol.sieve_node_login import SieveNodeLogin

OFFER = Offer(hostname="mx1.example.edu", starttls=False, passwords=True, mechanisms=("PLAIN", "LOGIN", "XOAUTH2"))
WHO = ClientIdentity(ip="192.0.2.7", port=5, local_ip="::1", local_port=110, session="s1", encrypted=True)
ANA = NodeCredentials(user="ana", secret=Secret(b"secret"))
NAME, PASSWORD, ANA64 = b64encode(b"ana"), b64encode(b"secret"), b64encode(b"\0ana\0secret")


def pop3_node() -> Pop3NodeLogin:
    return Pop3NodeLogin(ANA, WHO, False)


def sieve_node() -> SieveNodeLogin:
    return SieveNodeLogin(ANA, WHO, False)


CLIENTS: dict[str, tuple[Callable[[], Any], bytes]] = {
    "pop3": (
        lambda: Pop3Login(OFFER),
        b"CAPA\r\nUSER ana\nPASS x y\r\nAUTH LOGIN\r\n" + NAME + b"\r\n" + PASSWORD + b"\r\nSTAT\r\nAUTH PLAIN\r\n*\r\n"
        b"AUTH PLAIN " + ANA64 + b"\r\nQUIT\r\n",
    ),
    "sieve": (
        lambda: SieveLogin(OFFER),
        b'NOOP {3+}\r\n"\\a\r\nCAPABILITY\r\nAUTHENTICATE "PLAIN" {%d+}\r\n%b\r\nAUTHENTICATE {5+}\r\nLOGIN\r\n"%b"\r\n'
        b'"%b"\r\nBAD (x)\r\nNOOP "q\\"q"\r\nLOGOUT\r\n' % (len(ANA64), ANA64, NAME, PASSWORD),
    ),
}
NODES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "pop3": (pop3_node, b"+OK [XCLIENT] hi\r\n+OK\r\nTOP\r\nSASL PLAIN\r\n.\r\n+OK\r\n+OK in\r\n"),
    "sieve": (
        sieve_node,
        b'"IMPLEMENTATION" {7}\r\nDovecot\r\n"XCLIENT" "ADDR"\r\n"SIEVE" "fileinto"\r\nOK {5}\r\nready\r\nOK\r\n'
        b'OK (TAG {1}\r\nx) "in"\r\n',
    ),
}


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted({place % len(data) for place in cuts}), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


def serve(make: Callable[[], Any], pieces: Iterable[bytes]) -> list[object]:
    """All events; a login is refused, so that the dialogue goes on. What is left over comes last."""
    core, events = make(), []
    for piece in pieces:
        core.receive(piece)
        while (event := core.next_event()) is not None:
            events.append(event)
            if isinstance(event, LoginAsked):
                events.append(core.refuse(Refusal.FAILED))
    return [*events, getattr(core, "leftover", b"")]


@pytest.mark.parametrize("dialogue", [*CLIENTS.values(), *NODES.values()], ids=["pop3", "sieve", "pop3n", "sieven"])
@given(st.data())
def test_any_chunking_gives_the_same_events(dialogue: tuple[Callable[[], Any], bytes], data: st.DataObject) -> None:
    """However the bytes are cut, what is understood and answered is the same."""
    make, said = dialogue
    cuts = data.draw(st.lists(st.integers(0, 10_000), max_size=12))
    whole = serve(make, [said])
    assert serve(make, cut(said, cuts)) == whole
    assert serve(make, cut(said, range(len(said)))) == whole
    assert len(whole) >= 4


WORDS = [
    *(
        b"CAPA",
        b"USER ",
        b"PASS ",
        b"AUTH ",
        b"PLAIN",
        b"LOGIN",
        b"XOAUTH2",
        b"STLS",
        b"QUIT",
        b"+OK ",
        b"-ERR ",
        b"+ ",
    ),
    *(b"[AUTH]", b".", b"*", b"=", b"\r\n", b"\n", b"\r", b" ", b"\0", b"\xff", b'"', b"\\", b"(", b")", b"{3+}\r\n"),
    *(b"{99999+}\r\n", b"{3}\r\n", b"AUTHENTICATE ", b"OK ", b"NO ", b"BYE ", b"REFERRAL", b'"SIEVE" "x"', ANA64, NAME),
]


@pytest.mark.parametrize("name", sorted(CLIENTS))
@given(st.lists(st.sampled_from(WORDS) | st.binary(max_size=20), max_size=60))
def test_any_bytes_of_a_client_are_answered_or_end_it(name: str, pieces: list[bytes]) -> None:
    """No client can raise an error in its core, or make it say anything after `Closing`."""
    events = serve(CLIENTS[name][0], pieces)
    closed = [index for index, event in enumerate(events) if isinstance(event, Closing)]
    assert not closed or closed == [len(events) - 2]


@pytest.mark.parametrize("name", sorted(NODES))
@given(st.lists(st.sampled_from(WORDS) | st.binary(max_size=20), max_size=60))
def test_any_bytes_of_a_node_are_understood_or_end_it(name: str, pieces: list[bytes]) -> None:
    """A node can only end its connection: RemoteProtocolError and nothing else."""
    try:
        serve(NODES[name][0], pieces)
    except RemoteProtocolError:
        pass
