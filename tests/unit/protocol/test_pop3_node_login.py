"""POP3 towards a node, until somebody is logged in."""

from base64 import b64encode
from dataclasses import replace

import pytest

from mailfront.base.errors import RemoteProtocolError
from mailfront.base.secret import Secret
from mailfront.protocol.login_dialogue import (
    ClientIdentity,
    LoggedIn,
    NodeCredentials,
    Rejected,
    StartTls,
    ToNode,
    TryLater,
)
from mailfront.protocol.pop3_login import ASKED_FOR_UTF8
from mailfront.protocol.pop3_node_login import Pop3NodeLogin

WHO = ClientIdentity(ip="2001:db8::7", port=5, local_ip="::1", local_port=110, session="s1", encrypted=True)
ANA = NodeCredentials(user="ana", secret=Secret(b"se cret"))
MASTER = NodeCredentials(user="mailfront", secret=Secret(b"m"), authorize="ana")
PLAIN = b"AUTH PLAIN " + b64encode(b"\0ana\0se cret") + b"\r\n"
CAPA = b"+OK\r\nTOP\r\nSASL PLAIN LOGIN\r\nAUTH-RESP-CODE\r\n.\r\n"


def hear(core: Pop3NodeLogin, data: bytes) -> list[object]:
    core.receive(data)
    return list(iter(core.next_event, None))


def test_the_usual_way_takes_two_commands() -> None:
    """CAPA, AUTH PLAIN with initial response; what the node says behind its +OK belongs to the client."""
    core = Pop3NodeLogin(ANA, WHO, starttls=False)
    assert hear(core, b"+OK Dovecot ready.\r\n") == [ToNode(b"CAPA\r\n")]
    assert hear(core, CAPA) == [ToNode(PLAIN)]
    (logged_in,) = hear(core, b"+OK Logged in.\r\n+OK 0 messages")
    assert isinstance(logged_in, LoggedIn)
    assert logged_in.leftover == b"+OK 0 messages"


@pytest.mark.parametrize(
    ("greeting", "capa"), [(b"+OK [XCLIENT] hi\r\n", CAPA), (b"+OK hi\r\n", CAPA.replace(b"TOP", b"XCLIENT ADDR"))]
)
def test_a_node_that_wants_to_know_is_told_who_the_client_is(greeting: bytes, capa: bytes) -> None:
    """XCLIENT is sent if greeting or CAPA names it, and a refusal of it does not end the login."""
    core = Pop3NodeLogin(ANA, WHO, starttls=False)
    hear(core, greeting)
    assert hear(core, capa) == [ToNode(b"XCLIENT ADDR=2001:db8::7 PORT=5 SESSION=s1\r\n")]
    assert hear(core, b"-ERR no\r\n") == [ToNode(PLAIN)]


def test_tls_comes_first_and_nothing_from_before_it_is_believed() -> None:
    """STLS before anything else, CAPA is asked again; XCLIENT, which only the greeting offers, goes through TLS."""
    core = Pop3NodeLogin(ANA, WHO, starttls=True)
    assert hear(core, b"+OK [XCLIENT] hi\r\n") == [ToNode(b"CAPA\r\n")]
    assert hear(core, b"+OK\r\nSTLS\r\nSASL PLAIN\r\n.\r\n") == [ToNode(b"STLS\r\n")]
    assert hear(core, b"+OK\r\n") == [StartTls()]
    core.tls_started()
    assert hear(core, b"") == [ToNode(b"CAPA\r\n")]
    assert hear(core, CAPA) == [ToNode(b"XCLIENT ADDR=2001:db8::7 PORT=5 SESSION=s1\r\n")]
    assert hear(core, b"+OK\r\n") == [ToNode(PLAIN)]


def test_a_node_without_stls_gets_no_password() -> None:
    """If TLS is configured and not offered, the login fails for now: it is no word about the password."""
    core = Pop3NodeLogin(ANA, WHO, starttls=True)
    hear(core, b"+OK hi\r\n")
    (event,) = hear(core, CAPA)
    assert isinstance(event, TryLater)


def test_bytes_behind_the_answer_to_stls_end_it() -> None:
    """A node (or who sits before it) cannot slip in answers before TLS."""
    core = Pop3NodeLogin(ANA, WHO, starttls=True)
    hear(core, b"+OK hi\r\n")
    hear(core, b"+OK\r\nSTLS\r\n.\r\n")
    with pytest.raises(RemoteProtocolError):
        hear(core, b"+OK\r\n+OK Logged in\r\n")


def test_bytes_between_the_answer_to_stls_and_tls_end_it() -> None:
    """The same when they come a moment later."""
    core = Pop3NodeLogin(ANA, WHO, starttls=True)
    hear(core, b"+OK hi\r\n")
    hear(core, b"+OK\r\nSTLS\r\n.\r\n")
    hear(core, b"+OK\r\n")
    with pytest.raises(RemoteProtocolError):
        hear(core, b"+OK\r\n")


def test_user_and_pass_where_there_is_no_sasl() -> None:
    """A node without SASL PLAIN gets USER and PASS, one after the other."""
    core = Pop3NodeLogin(ANA, WHO, starttls=False)
    hear(core, b"+OK hi\r\n")
    assert hear(core, b"-ERR unknown command\r\n") == [ToNode(b"USER ana\r\n")]
    assert hear(core, b"+OK\r\n") == [ToNode(b"PASS se cret\r\n")]
    assert isinstance(hear(core, b"+OK\r\n")[0], LoggedIn)


def test_a_master_user_acts_for_the_user_by_authorization_identity() -> None:
    """Never by gluing names together: PLAIN has a field for it."""
    core = Pop3NodeLogin(MASTER, WHO, starttls=False)
    hear(core, b"+OK hi\r\n")
    assert hear(core, CAPA) == [ToNode(b"AUTH PLAIN " + b64encode(b"ana\0mailfront\0m") + b"\r\n")]


def test_a_long_response_follows_in_a_line_of_its_own() -> None:
    """A command line has at most 255 octets, so a long password waits for the node's `+`."""
    core = Pop3NodeLogin(NodeCredentials(user="ana", secret=Secret(b"p" * 500)), WHO, starttls=False)
    hear(core, b"+OK hi\r\n")
    assert hear(core, CAPA) == [ToNode(b"AUTH PLAIN\r\n")]
    (response,) = hear(core, b"+ \r\n")
    assert isinstance(response, ToNode)
    assert len(response.data) > 600


def test_a_bearer_token_goes_on_as_it_came() -> None:
    """The node's explanation of a no is answered with an empty word, and the -ERR that follows counts."""
    token = NodeCredentials(user="ana", secret=Secret(b"user=ana\x01auth=Bearer x\x01\x01"), mechanism="XOAUTH2")
    core = Pop3NodeLogin(token, WHO, starttls=False)
    hear(core, b"+OK hi\r\n")
    assert hear(core, CAPA) == [ToNode(b"AUTH XOAUTH2 " + b64encode(token.secret.reveal()) + b"\r\n")]
    assert hear(core, b"+ eyJ9\r\n") == [ToNode(b"AQ==\r\n")]
    assert hear(core, b"-ERR [AUTH] no\r\n") == [Rejected("AUTH", "[AUTH] no")]


def test_utf8_is_asked_for_when_the_client_did() -> None:
    """UTF8 goes to the node before the login, and a node that refuses it cannot serve this client now."""
    core = Pop3NodeLogin(ANA, replace(WHO, about=(ASKED_FOR_UTF8,)), starttls=False)
    hear(core, b"+OK hi\r\n")
    assert hear(core, CAPA) == [ToNode(b"UTF8\r\n")]
    assert hear(core, b"+OK\r\n") == [ToNode(PLAIN)]


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (b"-ERR [AUTH] Authentication failed.\r\n", Rejected("AUTH", "[AUTH] Authentication failed.")),
        (b"-ERR [SYS/PERM] gone\r\n", Rejected("SYS/PERM", "[SYS/PERM] gone")),
        (b"-ERR [SYS/TEMP] later\r\n", TryLater("SYS/TEMP", "[SYS/TEMP] later")),
        (b"-ERR [IN-USE] locked\r\n", TryLater("IN-USE", "[IN-USE] locked")),
        (b"-ERR [LOGIN-DELAY] slow\r\n", TryLater("LOGIN-DELAY", "[LOGIN-DELAY] slow")),
        (b"-ERR something\r\n", TryLater("", "something")),
    ],
)
def test_only_the_nodes_own_word_about_the_password_is_a_rejection(answer: bytes, event: object) -> None:
    """A node with AUTH-RESP-CODE that does not say [AUTH] means something else (RFC 3206)."""
    core = Pop3NodeLogin(ANA, WHO, starttls=False)
    hear(core, b"+OK hi\r\n")
    hear(core, CAPA)
    assert hear(core, answer) == [event]


def test_an_old_node_can_only_say_no() -> None:
    """Without AUTH-RESP-CODE a bare -ERR is about the password."""
    core = Pop3NodeLogin(ANA, WHO, starttls=False)
    hear(core, b"+OK hi\r\n")
    hear(core, b"+OK\r\nSASL PLAIN\r\n.\r\n")
    assert hear(core, b"-ERR no\r\n") == [Rejected("", "no")]


@pytest.mark.parametrize("greeting", [b"-ERR [SYS/TEMP] full\r\n", b"-ERR no\r\n"])
def test_a_node_that_does_not_greet_is_tried_later(greeting: bytes) -> None:
    """Refused before any password was sent: never a rejection."""
    (event,) = hear(Pop3NodeLogin(ANA, WHO, starttls=False), greeting)
    assert isinstance(event, TryLater)


@pytest.mark.parametrize("data", [b"* OK imap\r\n", b"220 smtp\r\n", b"x" * 3000, b"+ go on\r\n", b"\0\r\n"])
def test_what_is_no_pop3_ends_it(data: bytes) -> None:
    """Another protocol, an endless line, a prompt that nothing asked for."""
    with pytest.raises(RemoteProtocolError):
        hear(Pop3NodeLogin(ANA, WHO, starttls=False), data)


def test_an_endless_list_of_capabilities_ends_it() -> None:
    """At most a hundred are kept."""
    core = Pop3NodeLogin(ANA, WHO, starttls=False)
    hear(core, b"+OK hi\r\n")
    with pytest.raises(RemoteProtocolError):
        hear(core, b"+OK\r\n" + b"".join(b"X%d\r\n" % number for number in range(200)))
