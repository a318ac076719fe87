"""The filter chain before real scanners and real nodes: what clients hear, what arrives, what stays in quarantine.

Besides rspamd and clamd two programs are asked that do what the message itself says: `scripted` obeys the field
`X-Wanted`, `strict` (for the domain example.net only) the field `X-Wanted-Strict`, each a verdict as JSON.
"""

import base64
import json
import smtplib
import sys
import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import count
from typing import Any

import pytest

from tests.support.clamd import EICAR_NAME, Clamd, eicar
from tests.support.dovecot import DovecotNode
from tests.support.lmtp_client import LmtpClient
from tests.support.mailfront_server import MailfrontServer
from tests.support.ports import free_port
from tests.support.processes import new_directory, wait_until
from tests.support.rspamd import GTUBE, MARKERS, Rspamd

pytestmark = pytest.mark.serial

PROGRAM = """
import email, sys
field = email.message_from_binary_file(sys.stdin.buffer)[sys.argv[1]]
print(field or "")
"""
_numbers = count(1)
_users = count(1)
USERS = [
    {"address": f"user{number}@{domain}", "mailbox": f"filters{number}.{domain.rpartition('.')[2]}"}
    for number in range(40)
    for domain in ("example.edu", "example.net")
]


@pytest.fixture(scope="module")
def server(three_nodes: Sequence[DovecotNode], rspamd: Rspamd, clamd: Clamd) -> Iterator[MailfrontServer]:
    """mailfront with a chain of real scanners and two programs."""
    program = new_directory("program") / "obey.py"
    program.write_text(PROGRAM)
    obey = [sys.executable, "-I", "-S", str(program)]
    started = MailfrontServer(
        three_nodes,
        [*USERS, {"address": "postmaster@example.edu", "mailbox": "postmaster"}],
        listen=[
            {"role": "smtp", "address": f"127.0.0.1:{free_port()}"},
            {"role": "lmtp", "address": f"127.0.0.1:{free_port()}"},
        ],
        settings={
            "domains": {"local": ["example.edu", "example.net"]},
            "filter": [
                {"name": "spam", "kind": "rspamd", "settings": {"url": rspamd.url}},
                {"name": "virus", "kind": "clamd", "settings": {"address": clamd.address}},
                {"name": "scripted", "kind": "command", "settings": {"command": [*obey, "X-Wanted"]}},
                {
                    "name": "strict",
                    "kind": "command",
                    "only_for": {"domains": ["example.net"]},
                    "settings": {"command": [*obey, "X-Wanted-Strict"]},
                },
            ],
        },
        name="filters",
    )
    started.start()
    yield started
    started.stop()


def message(text: str = "good morning", *, wanted: Any = None, strict: Any = None, header: str = "") -> bytes:
    """A message with a text of one line, and what the programs are to say about it."""
    for name, verdict in (("X-Wanted", wanted), ("X-Wanted-Strict", strict)):
        if verdict is not None:
            header += f"{name}: {json.dumps(verdict)}\r\n"
    return (
        f"From: ann@example.org\r\nTo: user@example.edu\r\nSubject: hello\r\n{header}"
        f"Message-Id: <{next(_numbers)}@example.org>\r\n\r\n{text}\r\n"
    ).encode()


def people() -> tuple[str, str]:
    """The addresses of somebody whom no other test knows, in both domains."""
    number = next(_users)
    return f"user{number}@example.edu", f"user{number}@example.net"


def sent(server: MailfrontServer, data: bytes, *recipients: str) -> tuple[int, str]:
    """Send over SMTP; returns what was said after the dot."""
    with smtplib.SMTP(*server.smtp, timeout=60) as client:
        client.ehlo("client.example.org")
        assert client.mail("ann@example.org")[0] == 250
        for recipient in recipients:
            assert client.rcpt(recipient)[0] == 250
        code, text = client.data(data)
        return code, text.decode()


def inbox(nodes: Sequence[DovecotNode], address: str) -> list[bytes]:
    """All copies that somebody has, on whatever node."""
    local, _, domain = address.partition("@")
    mailbox = f"{local.replace('user', 'filters')}.{domain.rpartition('.')[2]}"
    return [copy.replace(b"\r\n", b"\n") for node in nodes for copy in node.messages(mailbox)]


def id_in(text: str) -> str:
    return text.split()[1]


def quarantined(server: MailfrontServer, message_id: str) -> list[dict[str, Any]]:
    """The rows of one message that are in quarantine."""
    rows = server.cli_json("queue", "list", "--state", "quarantined")
    return [row for row in rows if row["id"] == message_id]


def release(server: MailfrontServer, message_id: str) -> None:
    done = server.cli("queue", "release", "--id", message_id)
    assert done.returncode == 0, done.stderr


def test_gtube_is_refused_while_the_client_waits(server: MailfrontServer) -> None:
    """rspamd says reject, so the client hears a 5xx with rspamd's own words."""
    assert sent(server, message(GTUBE), people()[0]) == (550, "5.7.1 Gtube pattern")


def test_a_virus_in_a_zip_is_refused_while_the_client_waits(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode]
) -> None:
    """clamd opens the archive; nothing is delivered."""
    buffer, (ana, _) = BytesIO(), people()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("invoice.com", eicar())
    part = base64.encodebytes(buffer.getvalue()).decode().replace("\n", "\r\n")
    data = message(part, header="Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n")
    assert sent(server, data, ana) == (550, f"5.7.1 the message contains a virus ({EICAR_NAME})")
    assert inbox(three_nodes, ana) == []


def test_a_temporary_refusal_is_a_4xx(server: MailfrontServer) -> None:
    """rspamd's soft reject."""
    code, text = sent(server, message(MARKERS["soft reject"]), people()[0])
    assert (code, text[:5]) == (451, "4.7.1")


def test_edits_are_in_the_delivered_copy_and_the_text_is_as_it_came(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode]
) -> None:
    """Fields added, changed, inserted and deleted; the sender's own `X-Spam` is gone; our trace stands on top."""
    ana, _ = people()
    edits = [["add_header", "X-Added", "yes"], ["change_header", "Subject", 1, "changed"],
             ["insert_header", 0, "X-Top", "first"], ["delete_header", "To"]]  # fmt: skip
    text = "a line\r\n..two dots\r\n\r\n  end  "
    code, said = sent(server, message(text, wanted={"edits": edits}, header="X-Spam: No\r\n"), ana)
    assert (code, said.endswith("delivered")) == (250, True)
    (copy,) = inbox(three_nodes, ana)
    head, _, body = copy.partition(b"\n\n")
    names = [line.partition(b":")[0].decode() for line in head.split(b"\n") if not line.startswith((b" ", b"\t"))]
    ours = names.index("X-Top")
    assert names[ours : ours + 4] == ["X-Top", "Mailfront-Id", "Received", "From"]
    assert names[-1] == "X-Added"
    assert b"\nSubject: changed\n" in head
    assert not {"To", "X-Spam"} & set(names)
    assert body == text.replace("\r\n", "\n").encode() + b"\n"


def test_a_text_may_be_replaced(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """The header stays."""
    ana, _ = people()
    sent(server, message("old", wanted={"edits": [["replace_body", "new text\r\n"]]}), ana)
    (copy,) = inbox(three_nodes, ana)
    assert copy.endswith(b"\n\nnew text\n")
    assert b"\nSubject: hello\n" in copy


def test_over_smtp_the_refused_copy_waits_in_quarantine_and_the_others_go_on(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode]
) -> None:
    """One filter refuses for one domain: 250, the other recipient has it, this one's copy can be released."""
    ana, strict_ana = people()
    data = message(strict={"action": "reject", "text": "not here"})
    code, said = sent(server, data, ana, strict_ana)
    assert (code, said.rpartition(" ")[2]) == (250, "queued")
    assert len(inbox(three_nodes, ana)) == 1
    assert inbox(three_nodes, strict_ana) == []
    (row,) = quarantined(server, id_in(said))
    assert (row["recipient"], row["state"]) == (strict_ana, "quarantined")
    release(server, id_in(said))
    wait_until(lambda: inbox(three_nodes, strict_ana), 60.0, "the released copy")


def test_edits_reach_only_those_whom_the_filter_binds(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode]
) -> None:
    """A filter of one domain marks the message: that recipient's version goes on by itself, the other's is unmarked."""
    ana, strict_ana = people()
    code, said = sent(server, message(strict={"edits": [["add_header", "X-Strict", "yes"]]}), ana, strict_ana)
    assert (code, said.rpartition(" ")[2]) == (250, "queued")
    (unmarked,) = inbox(three_nodes, ana)
    (marked,) = wait_until(lambda: inbox(three_nodes, strict_ana), 60.0, "the marked version")
    assert b"\nX-Strict: yes\n" in marked
    assert b"\nX-Strict: " not in unmarked
    (event,) = [each for each in server.events("message") if each["id"] == id_in(said)]
    assert [each["outcome"] for each in event["recipients"]] == ["delivered", "split"]


def test_over_smtp_a_refusal_of_the_only_recipient_is_a_5xx(server: MailfrontServer) -> None:
    """Nobody accepted: nothing is kept."""
    _, strict_ana = people()
    data = message(strict={"action": "reject", "text": "not here"})
    assert sent(server, data, strict_ana) == (550, "5.7.1 not here")


def test_over_lmtp_each_recipient_hears_its_own_word(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode]
) -> None:
    """The same message over LMTP: 250 for one, 550 for the other, nothing in quarantine."""
    ana, strict_ana = people()
    with LmtpClient(server.endpoint("lmtp"), timeout_s=60.0) as client:
        answers = client.deliver(
            "ann@example.org", [strict_ana, ana], message(strict={"action": "reject", "text": "no"})
        )
    assert answers[strict_ana] == "550 5.7.1 no"
    assert answers[ana].endswith("delivered")
    assert len(inbox(three_nodes, ana)) == 1


def test_release_asks_no_filter_again(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """What a person released is delivered, with the edits that the filters had made."""
    ana, _ = people()
    wanted = {"action": "quarantine", "reason": "looks odd", "edits": [["add_header", "X-Odd", "yes"]]}
    code, said = sent(server, message(MARKERS["add header"], wanted=wanted), ana)
    assert (code, said.rpartition(" ")[2]) == (250, "queued")
    assert len(quarantined(server, id_in(said))) == 1
    asked_before = {row["name"]: row["verdicts"] for row in server.cli_json("filter", "list")}
    assert asked_before["scripted"]["quarantine"] >= 1
    release(server, id_in(said))
    (copy,) = wait_until(lambda: inbox(three_nodes, ana), 60.0, "the released copy")
    assert b"\nX-Odd: yes\n" in copy
    assert b"\nX-Spam: Yes\n" in copy
    assert {row["name"]: row["verdicts"] for row in server.cli_json("filter", "list")} == asked_before


def test_hold_is_a_state_of_the_queue(server: MailfrontServer, three_nodes: Sequence[DovecotNode]) -> None:
    """Held mail is not tried; released it is."""
    ana, _ = people()
    _, said = sent(server, message(wanted={"action": "hold", "reason": "ask the boss"}), ana)
    rows = server.cli_json("queue", "list", "--state", "held", "--id", id_in(said))
    assert [row["recipient"] for row in rows] == [ana]
    release(server, id_in(said))
    wait_until(lambda: inbox(three_nodes, ana), 60.0, "the released copy")


def test_discarded_mail_is_accepted_and_gone_and_the_log_says_so(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode]
) -> None:
    """250, no copy, no row; the `message` event names the filter and its reason."""
    ana, _ = people()
    code, said = sent(server, message(wanted={"action": "discard", "reason": "junk"}), ana)
    assert (code, said.rpartition(" ")[2]) == (250, "accepted")
    assert inbox(three_nodes, ana) == []
    assert server.cli_json("queue", "list", "--id", id_in(said)) == []
    (event,) = [each for each in server.events("message") if each["id"] == id_in(said)]
    assert event["result"] == "discarded"
    assert event["recipients"][0]["reply"] == "scripted: junk"
    assert {each["filter"] for each in event["filters"]} == {"spam", "virus", "scripted"}


def test_a_filter_may_add_and_remove_recipients_within_the_rules(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode]
) -> None:
    """An added mailbox of ours gets a copy, also in place of all others; an address outside is no way to relay; a
    removed one gets nothing."""
    (ana, _), (bob, _), (eve, _) = people(), people(), people()
    edits = [["add_recipient", bob], ["add_recipient", "someone@example.com"], ["delete_recipient", eve]]
    code, said = sent(server, message(wanted={"edits": edits}), ana, eve)
    assert (code, said.rpartition(" ")[2]) == (250, "delivered")
    assert [len(inbox(three_nodes, who)) for who in (ana, bob, eve)] == [1, 1, 0]
    assert "someone@example.com" in server.log_text()
    edits = [["add_recipient", bob], ["delete_recipient", ana], ["add_header", "X-Redirected", "yes"]]
    code, said = sent(server, message(wanted={"edits": edits}), ana)
    assert (code, said.rpartition(" ")[2]) == (250, "delivered")
    assert [len(inbox(three_nodes, who)) for who in (ana, bob)] == [1, 2]
    assert sum(b"\nX-Redirected: yes\n" in copy for copy in inbox(three_nodes, bob)) == 1


def test_filter_list_shows_the_chain(server: MailfrontServer, clamd: Clamd) -> None:
    """Order, settings, hosts and times, for programs and for people."""
    sent(server, message(), people()[0])
    rows = {row["name"]: row for row in server.cli_json("filter", "list")}
    assert list(rows) == ["spam", "virus", "scripted", "strict"]
    assert rows["virus"]["hosts"] == {clamd.address: "closed"}
    assert rows["strict"]["only_for"] == {"domains": ["example.net"]}
    assert rows["virus"]["p50_ms"] <= rows["virus"]["p99_ms"]
    shown = server.cli("filter", "list")
    assert shown.returncode == 0
    assert "strict" in shown.stdout


def test_filter_test_asks_the_chain_and_leaves_nothing_behind(
    server: MailfrontServer, three_nodes: Sequence[DovecotNode]
) -> None:
    """Every verdict with its time, and what would become of each recipient; nothing is delivered."""
    ana, strict_ana = people()
    path = new_directory("mail") / "test.eml"
    path.write_bytes(message(strict={"action": "reject", "text": "not here"}).replace(b"\r\n", b"\n"))
    answer = server.cli_json("filter", "test", str(path), "--from", "ann@example.org", "--to", ana, "--to", strict_ana)
    found = {each["filter"]: each for each in answer["findings"]}
    assert found["spam"]["verdict"] == "continue"
    assert (found["strict"]["verdict"], found["strict"]["recipients"]) == ("reject", [strict_ana])
    assert all(each["ms"] >= 0 for each in answer["findings"])
    assert [(each["recipient"], each["action"]) for each in answer["rulings"]] == [
        (ana, "continue"),
        (strict_ana, "quarantine"),
    ]
    assert inbox(three_nodes, ana) == []
    shown = server.cli("filter", "test", str(path), "--to", strict_ana)
    assert shown.returncode == 0
    assert "550 5.7.1 not here" in shown.stdout
