"""The keeper's picture of who is logged in."""

from dataclasses import replace

import pytest

from mailfront.mail.names import MailboxKey, NodeId
from mailfront.sessions import register as register_module
from mailfront.sessions.register import SessionRegister, SessionRow, SessionSelection, read_network

ANA = SessionRow(
    id="s1",
    protocol="imap",
    login="Ana@Example.edu",
    mailbox=MailboxKey("ana@example.edu"),
    node=NodeId("store1"),
    client_ip="192.0.2.7",
    client_port=1,
    tls="TLSv1.3",
    opened_s=100.0,
)
BOB = replace(ANA, id="s2", protocol="pop3", login="bob", mailbox=MailboxKey("b-17"), node=NodeId("store2"),
              client_ip="2001:db8::7")  # fmt: skip


@pytest.fixture
def register() -> SessionRegister:
    """Ana at the first worker, Bob at the second."""
    made = SessionRegister()
    made.opened("w0", ANA)
    made.opened("w1", BOB)
    return made


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (SessionSelection(), {"s1", "s2"}),
        (SessionSelection(ids=frozenset({"s2", "s9"})), {"s2"}),
        (SessionSelection(users=frozenset({"ana@example.edu"})), {"s1"}),
        (SessionSelection(users=frozenset({"b-17"})), {"s2"}),
        (SessionSelection(users=frozenset({"an", ""})), set()),
        (SessionSelection(mailboxes=frozenset({MailboxKey("b-17")})), {"s2"}),
        (SessionSelection(nodes=frozenset({"store1"})), {"s1"}),
        (SessionSelection(protocols=frozenset({"imap", "pop3"}), nodes=frozenset({"store2"})), {"s2"}),
        (SessionSelection(protocols=frozenset({"sieve"})), set()),
        (SessionSelection(networks=(read_network("192.0.2.0/24"),)), {"s1"}),
        (SessionSelection(networks=(read_network("2001:db8::7"), read_network("192.0.2.8"))), {"s2"}),
    ],
)
def test_sessions_are_found_by_every_condition(
    register: SessionRegister, wanted: SessionSelection, ids: set[str]
) -> None:
    """All conditions must hold, of several values of one any; a user is the whole login name or the mailbox key."""
    assert {row.id for _, row in register.find(wanted)} == ids


def test_a_session_leaves_when_it_ends_and_with_its_worker(register: SessionRegister) -> None:
    """What ended, and what a lost worker had told, is not shown; ends of unknown sessions change nothing."""
    register.closed("w0", "s2")
    assert len(register) == 2
    register.closed("w1", "s2")
    register.closed("w1", "s2")
    assert [worker for worker, _ in register.find(SessionSelection())] == ["w0"]
    register.gone("w0")
    assert len(register) == 0


def test_a_worker_that_tells_anew_replaces_what_it_had_told(register: SessionRegister) -> None:
    """After a lost connection no session is shown twice, and none that ended meanwhile is left."""
    register.begin("w0")
    register.opened("w0", replace(ANA, id="s3"))
    assert {row.id for _, row in register.find(SessionSelection())} == {"s2", "s3"}


def test_a_worker_can_only_tell_so_many(register: SessionRegister, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit sessions are not listed, and that is said."""
    monkeypatch.setattr(register_module, "MAX_ROWS_PER_WORKER", 2)
    assert register.opened("w0", replace(ANA, id="s3"))
    assert not register.opened("w0", replace(ANA, id="s4"))
    assert register.opened("w0", replace(ANA, login="again"))
    assert len(register) == 3


def test_a_row_survives_the_way_to_the_keeper() -> None:
    """What is written can be read; anything of another length is refused."""
    assert SessionRow.from_wire(ANA.to_wire()) == ANA
    with pytest.raises(ValueError, match="fields"):
        SessionRow.from_wire(["s1"])


@pytest.mark.parametrize("text", ["", "192.0.2.300", "store1", "192.0.2.0/33"])
def test_what_is_no_network_is_refused_with_an_example(text: str) -> None:
    """An administrator learns what to write."""
    with pytest.raises(ValueError, match=r"write 192\.0\.2\.7"):
        read_network(text)
