"""The harness itself: each real server starts, answers, and behaves as mailfront's tests rely on."""

import contextlib
import imaplib
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldap3
import pytest

from mailfront.config.load import load
from tests.support.certificates import Authority
from tests.support.cyrus import MASTER_PASSWORD as CYRUS_MASTER_PASSWORD
from tests.support.cyrus import MASTER_USER as CYRUS_MASTER_USER
from tests.support.cyrus import CyrusNode
from tests.support.dovecot import (
    HANDOFF_PASSWORD,
    HANDOFF_USER,
    MASTER_PASSWORD,
    MASTER_USER,
    USER_PASSWORD,
    DovecotNode,
    start_together,
)
from tests.support.ldap import BIND_DN, BIND_PASSWORD, PEOPLE, Person, Slapd, ordinary_people
from tests.support.ledger import Ledger, message_with, token_of
from tests.support.lmtp_client import LmtpClient
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer
from tests.support.mailfront_server import MailfrontServer
from tests.support.postfix import PostfixSender, SmtpSink, smtp_source
from tests.support.processes import greeting, new_directory, wait_until

Nodes = tuple[DovecotNode, DovecotNode, DovecotNode]


def a_token() -> str:
    return uuid.uuid4().hex


def plain_login(host: str, port: int, *, authzid: str, authcid: str, password: str) -> imaplib.IMAP4:
    """Log in by SASL PLAIN; raises imaplib.IMAP4.error when refused."""
    client = imaplib.IMAP4(host, port, timeout=10)
    try:
        client.authenticate("PLAIN", lambda _: f"{authzid}\0{authcid}\0{password}".encode())
    except imaplib.IMAP4.error:
        client.shutdown()
        raise
    return client


# Dovecot


def test_three_nodes_start_together() -> None:
    """Three fresh nodes come up at once, and each greets on its port for LMTP."""
    nodes = [DovecotNode(f"fresh{number}") for number in (1, 2, 3)]
    try:
        start_together(nodes)
        for node in nodes:
            with LmtpClient((node.host, node.lmtp)) as client:
                assert client.deliver("a@example.org", ["eve"], message_with(a_token()))["eve"].startswith("250")
    finally:
        for node in nodes:
            node.kill9()


def test_mail_by_lmtp_is_found_on_the_disk_and_over_imap(three_nodes: Nodes) -> None:
    """A message delivered over LMTP is in the Maildir, and in the inbox of the user who logs in."""
    node, token = three_nodes[0], a_token()
    with LmtpClient((node.host, node.lmtp)) as client:
        replies = client.deliver("a@example.org", [f"u{token}", f"u{token}+detail"], message_with(token))
    assert all(reply.startswith("250 2.0.0") for reply in replies.values())
    assert [token_of(message) for message in node.messages(f"u{token}")] == [token, token]
    session = plain_login(node.host, node.imap, authzid="", authcid=f"u{token}", password=USER_PASSWORD)
    assert session.select()[1] == [b"2"]
    session.logout()


@pytest.mark.parametrize("way", ["tcp", "starttls", "tls", "unix"])
def test_lmtp_listens_in_every_way(three_nodes: Nodes, authority: Authority, way: str) -> None:
    """LMTP answers in clear, with STARTTLS, with TLS from the start, and on a UNIX socket."""
    node, token = three_nodes[1], a_token()
    context = authority.client_context()
    if way == "tls":
        assert greeting((node.host, node.lmtp_tls), tls=context).startswith(b"220")
        return
    endpoint = node.lmtp_unix if way == "unix" else (node.host, node.lmtp)
    with LmtpClient(endpoint, starttls=context if way == "starttls" else None) as client:
        assert client.deliver("", [f"u{token}"], message_with(token))[f"u{token}"].startswith("250")
    assert len(node.messages(f"u{token}")) == 1


def test_a_node_on_ipv6_knows_only_its_users() -> None:
    """A node with a list of users answers 550 5.1.1 for others, on ::1 too."""
    node = DovecotNode("six", host="::1", users=["anna"])
    node.start()
    try:
        with LmtpClient((node.host, node.lmtp)) as client:
            replies = client.deliver("a@example.org", ["anna", "bob"], message_with(a_token()))
        assert replies["anna"].startswith("250")
        assert replies["bob"].startswith("550 5.1.1")
    finally:
        node.kill9()


def test_over_quota_is_temporary_and_said_at_rcpt(three_nodes: Nodes) -> None:
    """A full mailbox is 452 4.2.2 in reply to RCPT, before the message is sent."""
    node = three_nodes[0]
    with LmtpClient((node.host, node.lmtp)) as client:
        # More than the limit, less than the limit and the 10 % of grace.
        client.deliver("a@example.org", ["tiny37"], message_with(a_token(), size_bytes=10_500))
        client.command("MAIL FROM:<a@example.org>")
        assert client.command("RCPT TO:<tiny37>").startswith("452 4.2.2")


def test_the_handoff_account_has_neither_quota_nor_sieve() -> None:
    """With a site-wide quota and Sieve scripts, handed-off mail still goes to the inbox, and all of it."""
    folder = new_directory("sieve")
    for name in ("before", "default"):
        (folder / f"{name}.sieve").write_text(f'require ["fileinto", "mailbox"]; fileinto :create "{name}"; stop;\n')
    folder.chmod(0o777)
    node = DovecotNode(
        "strict",
        settings=f"plugin {{\n quota_rule = *:storage=20K\n sieve_default = {folder}/default.sieve\n"
        f" sieve_before = {folder}/before.sieve\n}}",
    )
    node.start()
    try:
        with LmtpClient((node.host, node.lmtp)) as client:
            # The user first: the same LMTP process has then loaded quota and Sieve.
            client.deliver("a@example.org", ["anna"], message_with(a_token()))
            for _ in range(5):
                replies = client.deliver(
                    "a@example.org", ["anna", HANDOFF_USER], message_with(a_token(), size_bytes=9_000)
                )
                assert replies[HANDOFF_USER].startswith("250")
        assert "before" in node.folders("anna")
        assert node.folders(HANDOFF_USER) == ["INBOX"]
        assert len(node.handoff_messages()) == 5
        assert replies["anna"].startswith("452 4.2.2")
    finally:
        node.kill9()


def test_only_its_own_password_opens_the_handoff_account(three_nodes: Nodes) -> None:
    """The password that fits every user does not fit the handoff account."""
    node = three_nodes[0]
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        plain_login(node.host, node.imap, authzid="", authcid=HANDOFF_USER, password=USER_PASSWORD)
    plain_login(node.host, node.imap, authzid="", authcid=HANDOFF_USER, password=HANDOFF_PASSWORD).logout()


def test_the_master_user_finds_a_message_by_its_header(three_nodes: Nodes) -> None:
    """The master user logs in as another user with an authorization identity and searches by Mailfront-Id."""
    node, token = three_nodes[2], a_token()
    with LmtpClient((node.host, node.lmtp)) as client:
        client.deliver(
            "a@example.org", [f"u{token}"], b"Mailfront-Id: " + token.encode() + b"\r\n" + message_with(token)
        )
    master = plain_login(node.host, node.imap, authzid=f"u{token}", authcid=MASTER_USER, password=MASTER_PASSWORD)
    master.select()
    assert master.search(None, "HEADER", "Mailfront-Id", token)[1] == [b"1"]
    assert master.search(None, "HEADER", "Mailfront-Id", a_token())[1] == [b""]
    master.logout()
    for authcid, password in ((MASTER_USER, USER_PASSWORD), (f"u{token}", USER_PASSWORD)):
        with pytest.raises(imaplib.IMAP4.error, match=r"AUTHENTICATIONFAILED|AUTHORIZATIONFAILED"):
            plain_login(node.host, node.imap, authzid="somebody", authcid=authcid, password=password)


def test_a_node_hangs_dies_and_comes_back_with_its_mail(three_nodes: Nodes) -> None:
    """A hung node accepts and stays silent; a killed one refuses; its mail is there after the restart."""
    node, token = three_nodes[1], a_token()
    with LmtpClient((node.host, node.lmtp)) as client:
        client.deliver("a@example.org", [f"u{token}"], message_with(token))
    node.hang()
    assert greeting((node.host, node.lmtp), timeout_s=0.3) == b""
    node.resume()
    assert greeting((node.host, node.lmtp)).startswith(b"220")
    node.kill9()
    with pytest.raises(ConnectionRefusedError):
        LmtpClient((node.host, node.lmtp))
    node.start()
    assert [token_of(message) for message in node.messages(f"u{token}")] == [token]


# Cyrus


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_cyrus_answers_lmtp_and_imap(cyrus_node: CyrusNode, way: str) -> None:
    """Cyrus takes mail over LMTP, and its administrator reads it as the user."""
    token = a_token()
    endpoint = cyrus_node.lmtp_unix if way == "unix" else (cyrus_node.host, cyrus_node.lmtp)
    with LmtpClient(endpoint) as client:
        replies = client.deliver("a@example.org", ["anna", "bob+detail"], message_with(token))
    assert all(reply.startswith("250 2.1.5") for reply in replies.values())
    assert token in [token_of(message) for message in cyrus_node.messages("bob")]
    session = plain_login(
        cyrus_node.host, cyrus_node.imap, authzid="anna", authcid=CYRUS_MASTER_USER, password=CYRUS_MASTER_PASSWORD
    )
    session.select()
    assert len(session.search(None, "HEADER", "X-Ledger-Token", token)[1][0].split()) == 1
    session.logout()


def test_cyrus_offers_tls_for_imap(cyrus_node: CyrusNode, authority: Authority) -> None:
    """IMAP on the Cyrus node goes on in TLS after STARTTLS, with a certificate that verifies."""
    with imaplib.IMAP4("localhost", cyrus_node.imap, timeout=10) as session:
        session.starttls(ssl_context=authority.client_context())
        session.login("anna", USER_PASSWORD)


# OpenLDAP


@contextlib.contextmanager
def ldap_connection(
    url: str, ca_file: Path, *, dn: str = BIND_DN, password: str = BIND_PASSWORD, starttls: bool = False
) -> Iterator[Any]:
    """Connect, verify the server's certificate where there is one, and bind; `bound` says whether that worked."""
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(ca_file))
    server = ldap3.Server(url, tls=tls, get_info=ldap3.NONE)
    connection = ldap3.Connection(server, dn, password, client_strategy=ldap3.SYNC)
    connection.open()
    try:
        if starttls:
            assert connection.start_tls()
        connection.bind()
        yield connection
    finally:
        connection.unbind()


def search(connection: Any, query: str) -> list[dict[str, Any]]:
    """Return the attributes of the entries found, values as lists."""
    connection.search(PEOPLE, query, attributes=["uid", "entryUUID", "mailHost", "mailUserStatus", "userPassword"])
    return [entry["attributes"] for entry in connection.response]


@pytest.mark.parametrize("way", ["plain", "starttls", "ldaps"])
def test_slapd_answers_filters_and_counts_them(slapd: Slapd, authority: Authority, way: str) -> None:
    """Aliases and attributes are found over each transport; passwords are not readable; searches are counted."""
    query = "(|(mail={0})(mailAlternateAddress={0}))"
    url = slapd.ldaps_url if way == "ldaps" else slapd.url
    with ldap_connection(url, authority.ca_file, starttls=way == "starttls") as connection:
        before = slapd.searches()
        (alias,) = search(connection, query.format("FIRST0042.last@example.edu"))
        assert alias["uid"] == ["user0042"]
        assert alias["entryUUID"]
        assert alias["userPassword"] == []
        twins = search(connection, query.format("twins@example.edu"))
        assert sorted(entry["uid"][0] for entry in twins) == ["twin1", "twin2"]
        assert search(connection, query.format("nobody@example.edu")) == []
        wait_until(lambda: slapd.searches() - before == 3, 2.0, "three searches in the log")


def test_slapd_gives_mailfront_everybody_in_pages_and_checks_users(slapd: Slapd, authority: Authority) -> None:
    """The read-only account pages through all people; a user binds with the own password only."""
    with ldap_connection(slapd.url, authority.ca_file) as connection:
        found = connection.extend.standard.paged_search(
            PEOPLE, "(objectClass=mailfrontUser)", attributes=["uid"], paged_size=200, generator=False
        )
        assert len(found) == len(slapd.people)
    user = slapd.dn("user0001")
    for password, fits in (("secret", True), ("wrong", False)):
        with ldap_connection(slapd.url, authority.ca_file, dn=user, password=password) as connection:
            assert connection.bound is fits


def test_five_thousand_people_load_and_change(authority: Authority) -> None:
    """slapd with 5,000 people comes up, and takes changes."""
    server = Slapd(people=ordinary_people(5_000))
    server.start()
    try:
        dn = server.add(Person(uid="late", mail=("late@example.edu",)))
        server.apply_ldif(f"dn: {dn}\nchangetype: modify\nreplace: mailUserStatus\nmailUserStatus: suspended\n")
        with ldap_connection(server.url, authority.ca_file) as connection:
            (late,) = search(connection, "(uid=late)")
            assert late["mailUserStatus"] == ["suspended"]
            assert len(search(connection, "(uid=user*)")) == 5_000
    finally:
        server.stop()


# Postfix


def test_postfix_relays_to_a_sink_and_tries_again() -> None:
    """A real Postfix passes mail on; while the other side is away it keeps it in its queue."""
    with SmtpSink(dump=True) as sink, PostfixSender(sink.host, sink.port) as postfix:
        first, second = a_token(), a_token()
        postfix.inject(message_with(first), sender="a@example.org", recipients=["b@example.edu", "c@example.edu"])
        wait_until(lambda: sum(first.encode() in m for m in sink.messages()), 10.0, "the first message")
        sink.stop()
        postfix.inject(message_with(second), sender="a@example.org", recipients=["b@example.edu"])
        wait_until(
            lambda: [item for item in postfix.queue() if item["recipients"][0].get("delay_reason")], 10.0, "a deferral"
        )
        sink.start()
        wait_until(lambda: not postfix.queue(), 60.0, "an empty queue")
        assert "status=sent" in postfix.log_text()


def test_smtp_source_sends_to_a_sink() -> None:
    """smtp-source delivers a bounded load and reports success."""
    with SmtpSink() as sink:
        result = smtp_source(sink.host, sink.port, messages=50, recipient="a@example.edu", sessions=5)
        assert result.ok, result.output


# Tools of our own


def test_the_file_written_for_mailfront_is_a_good_configuration(slapd: Slapd, three_nodes: Nodes) -> None:
    """The configuration loader accepts what MailfrontServer writes, with a test's own settings merged in."""
    server = MailfrontServer(three_nodes, slapd, settings={"storage": {"secondaries": 2}, "queue": {"retry": ["1s"]}})
    configuration = load(server.configuration_file)
    assert [node.id for node in configuration.node] == ["store1", "store2", "store3"]
    assert configuration.storage.secondaries == 2
    assert server.smtp[0] == "127.0.0.1"


def test_the_scripted_peer_follows_its_script() -> None:
    """One step of the script answers once, the next transaction is normal, and all is recorded."""
    script = {"RCPT <b@x>": [Action(replies=("450 4.2.0 busy",))], "dot": [Action(replies=("250 2.0.0 only one",))]}
    with ScriptedLmtpPeer(script) as peer:
        with LmtpClient(peer.endpoint) as client:
            assert client.deliver("a@x", ["b@x", "c@x"], b"..\r\n.\r\n") == {
                "b@x": "450 4.2.0 busy",
                "c@x": "250 2.0.0 only one",
            }
            assert set(client.deliver("a@x", ["b@x"], b"")) == {"b@x"}
        first, second = peer.received()
        assert (first.recipients, first.accepted, first.body) == (["b@x", "c@x"], ["c@x"], b"..\r\n.\r\n")
        assert (second.accepted, second.body) == (["b@x"], b"")
        assert peer.verbs() == ["LHLO", "MAIL", "RCPT", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize("then", ["close", "reset", "stall"])
@pytest.mark.parametrize("step", ["connect", "LHLO", "MAIL", "RCPT", "DATA", "body", "dot"])
def test_the_scripted_peer_fails_at_any_step(step: str, then: str) -> None:
    """At each step the peer can close, reset or stall; the client gets no reply to that step."""
    action = Action(then=then)  # type: ignore[arg-type]
    with ScriptedLmtpPeer({step: [action]}) as peer:
        with pytest.raises((ConnectionError, TimeoutError)), LmtpClient(peer.endpoint, timeout_s=0.2) as client:
            client.deliver("a@x", ["b@x"], message_with("t"))
        assert len(peer.received()) == (1 if step == "dot" else 0)
        with LmtpClient(peer.endpoint) as client:
            assert client.deliver("a@x", ["b@x"], message_with("t"))["b@x"].startswith("250")


def test_the_ledger_names_what_is_wrong() -> None:
    """Lost, duplicated, misplaced and strange messages are told apart; a pending one is not lost."""
    ledger = Ledger()
    for token in ("fine", "lost", "twice", "astray", "queued", "away"):
        ledger.sent(token, ["anna"], acknowledged=True)
    ledger.sent("refused", ["anna"], acknowledged=False)
    for token, node in (("fine", "n1"), ("twice", "n1"), ("twice", "n1"), ("astray", "n2"), ("unknown", "n1")):
        ledger.found_in_mailbox(token, "anna", node)
    ledger.found_queued("queued", "anna")
    ledger.found_handed_off("away")
    report = ledger.check(home=lambda _: "n1")
    assert report.lost == (("lost", "anna"),)
    assert report.duplicated == (("twice", "anna"),)
    assert report.misplaced == (("astray", "anna", "n2"),)
    assert report.strangers == (("unknown", "anna"),)
    assert (report.queued, report.handed_off, report.delivered) == (1, 1, 3)
    with pytest.raises(AssertionError, match="lost 1"):
        report.assert_kept()


def test_the_ledger_excuses_a_second_copy_for_two_reasons_only() -> None:
    """The same id twice: an unknown outcome was recorded. Another id: the client got no reply to a final dot."""
    for copies, unanswered, unknown, is_excused in (
        (("id1", "id1"), 0, (), False),
        (("id1", "id1"), 1, (), False),
        (("id1", "id1"), 0, ("id1",), True),
        (("id1", "id2"), 0, ("id1", "id2"), False),
        (("id1", "id2"), 1, (), True),
        (("id1", "id2", "id3"), 1, (), False),
        (("id1", "id2", "id2"), 1, ("id2",), True),
    ):
        ledger = Ledger()
        ledger.sent("token", ["anna"], acknowledged=True)
        for _ in range(unanswered):
            ledger.unanswered("token")
        for message_id in unknown:
            ledger.outcome_unknown(message_id)
        for message_id in copies:
            ledger.found_in_mailbox("token", "anna", "n1", message_id)
        report = ledger.check()
        assert bool(report.duplicated) is not is_excused
        assert report.excused_duplicates == (len(copies) - 1 if is_excused else 0)
