"""ManageSieve towards a node, until somebody is logged in."""

from base64 import b64encode

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
from mailfront.protocol.sieve_node_login import SieveNodeLogin

WHO = ClientIdentity(ip="192.0.2.7", port=5, local_ip="::1", local_port=4190, session="s1", encrypted=True)
ANA = NodeCredentials(user="ana", secret=Secret(b"secret"))
PLAIN = b'AUTHENTICATE "PLAIN" "%b"\r\n' % b64encode(b"\0ana\0secret")
GREETING = b'"IMPLEMENTATION" "Dovecot"\r\n"SIEVE" "fileinto vacation"\r\n"SASL" "PLAIN"\r\nOK "ready."\r\n'
WITH_TLS = GREETING.replace(b'"SASL"', b'"STARTTLS"\r\n"XCLIENT" "ADDR"\r\n"SASL"')


def hear(core: SieveNodeLogin, data: bytes) -> list[object]:
    core.receive(data)
    return list(iter(core.next_event, None))


def test_the_usual_way_takes_one_command() -> None:
    """AUTHENTICATE with an initial response; the extensions that the node named come along."""
    core = SieveNodeLogin(ANA, WHO, starttls=False)
    assert hear(core, GREETING) == [ToNode(PLAIN)]
    assert hear(core, b'OK "Logged in."\r\n"x"') == [LoggedIn("", b'"x"')]
    assert core.capabilities == {"fileinto", "vacation", "AUTH=PLAIN"}


def test_a_node_that_wants_to_know_is_told_who_the_client_is() -> None:
    """XCLIENT goes out if the capabilities name it; a refusal of it does not end the login."""
    core = SieveNodeLogin(ANA, WHO, starttls=False)
    assert hear(core, WITH_TLS) == [ToNode(b"XCLIENT ADDR=192.0.2.7 PORT=5 SESSION=s1\r\n")]
    assert hear(core, b'NO "no"\r\n') == [ToNode(PLAIN)]


def test_tls_comes_first_and_nothing_from_before_it_is_believed() -> None:
    """STARTTLS before anything else; XCLIENT that was offered in clear is forgotten."""
    core = SieveNodeLogin(ANA, WHO, starttls=True)
    assert hear(core, WITH_TLS) == [ToNode(b"STARTTLS\r\n")]
    assert hear(core, b'OK "go"\r\n') == [StartTls()]
    core.tls_started()
    assert hear(core, GREETING) == [ToNode(PLAIN)]


@pytest.mark.parametrize("at_once", [True, False])
def test_bytes_between_the_answer_to_starttls_and_tls_end_it(at_once: bool) -> None:
    """A node (or who sits before it) cannot slip in answers before TLS."""
    core = SieveNodeLogin(ANA, WHO, starttls=True)
    hear(core, WITH_TLS)
    if not at_once:
        hear(core, b'OK "go"\r\n')
    with pytest.raises(RemoteProtocolError):
        hear(core, b'OK "go"\r\nOK\r\n')


def test_a_master_user_acts_for_the_user_by_authorization_identity() -> None:
    """Never by gluing names together: PLAIN has a field for it."""
    master = NodeCredentials(user="mailfront", secret=Secret(b"m"), authorize="ana")
    (event,) = hear(SieveNodeLogin(master, WHO, starttls=False), GREETING)
    assert event == ToNode(b'AUTHENTICATE "PLAIN" "%b"\r\n' % b64encode(b"ana\0mailfront\0m"))


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (b'NO "Authentication failed."\r\n', Rejected("", "Authentication failed.")),
        (b'NO (TRYLATER) "later"\r\n', TryLater("TRYLATER", "later")),
        (b'NO (ENCRYPT-NEEDED) "tls"\r\n', TryLater("ENCRYPT-NEEDED", "tls")),
        (b'NO (AUTH-TOO-WEAK) "x"\r\n', TryLater("AUTH-TOO-WEAK", "x")),
        (b'BYE "full"\r\n', TryLater("", "full")),
        (b'BYE {4}\r\nfull\r\n', TryLater("", "full")),
    ],
)  # fmt: skip
def test_only_the_nodes_own_word_about_the_password_is_a_rejection(answer: bytes, event: object) -> None:
    """NO without a code is about the password; every code, and BYE, is about something else."""
    core = SieveNodeLogin(ANA, WHO, starttls=False)
    hear(core, GREETING)
    assert hear(core, answer) == [event]


@pytest.mark.parametrize("status", [b"NO", b"BYE", b"OK"])
def test_a_referral_is_not_followed(status: bytes) -> None:
    """A node that sends the client elsewhere ends the login, whatever the status says."""
    core = SieveNodeLogin(ANA, WHO, starttls=False)
    hear(core, GREETING)
    (event,) = hear(core, status + b' (REFERRAL "sieve://evil.example") "go there"\r\n')
    assert isinstance(event, TryLater)


@pytest.mark.parametrize(
    "data",
    [b"* OK imap\r\n", b"+OK pop\r\n", b"x" * 9000, b'"A" {99999}\r\n', b"\0\r\n", b'"X" "y"\r\n' * 200],
)
def test_what_is_no_managesieve_ends_it(data: bytes) -> None:
    """Another protocol, an endless line, a literal bomb, an endless list of capabilities."""
    with pytest.raises(RemoteProtocolError):
        hear(SieveNodeLogin(ANA, WHO, starttls=False), data)
