"""A storage node that takes only small messages: what it cannot take is refused at the door, not queued for ever."""

import smtplib

from tests.support.lmtp_peer import GOOD_EXTENSIONS, ScriptedLmtpPeer
from tests.support.mailfront_server import MailfrontServer
from tests.support.processes import wait_until

NODE_LIMIT = 400_000
ROOM_FOR_OUR_LINES = 64 * 1024


def test_the_smallest_node_limits_what_is_offered() -> None:
    """EHLO's SIZE is what every node takes, with room for our own lines; more is 552 at MAIL and after the dot."""
    peer = ScriptedLmtpPeer(extensions=(*GOOD_EXTENSIONS, f"SIZE {NODE_LIMIT}"))
    peer.start()
    server = MailfrontServer(
        [{"id": "store1", "host": peer.host, "lmtp": peer.port, "imap": 1}],
        [{"address": "ana@example.edu", "mailbox": "ana", "password": "{PLAIN}x"}],
        settings={"storage": {"secondaries": 0}},
    )
    server.start()
    expected = NODE_LIMIT - ROOM_FOR_OUR_LINES

    def offered() -> bool:
        with smtplib.SMTP(*server.smtp) as client:
            client.ehlo()
            return client.esmtp_features["size"] == str(expected)

    def both_workers_know() -> bool:
        return all(offered() for _ in range(8))

    try:
        wait_until(both_workers_know, 20, "the node's limit in EHLO")
        with smtplib.SMTP(*server.smtp) as client:
            client.ehlo()
            assert client.docmd("MAIL", f"FROM:<a@example.org> SIZE={expected + 1}")[0] == 552
            small, large = b"x" * 70 + b"\r\n", b"y" * 70 + b"\r\n"
            assert client.docmd("MAIL", "FROM:<a@example.org>")[0] == 250
            assert client.rcpt("ana@example.edu")[0] == 250
            assert client.data(large * (expected // len(large) + 1))[0] == 552
            client.sendmail("a@example.org", ["ana@example.edu"], small * (expected // len(small) - 10))
        assert sum(transaction.complete for transaction in peer.transactions) == 1
        assert server.cli_json("queue", "stats")["total"] == 0
    finally:
        server.stop()
        peer.stop()
