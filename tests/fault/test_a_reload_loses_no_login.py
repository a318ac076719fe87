"""SIGHUP while people log in, again and again: each connection gets its session, and each reload is in force at once.

A real Dovecot. Old and new workers accept on the same sockets for a while; the reload is over when the old ones do not.
"""

import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.support.certificates import Authority, CertificateFiles
from tests.support.dovecot import DovecotNode
from tests.support.processes import wait_until
from tests.support.session_client import LIMIT_S, OK, WRONG, SessionClient
from tests.support.session_cluster import SessionCluster, listener

RELOADS_COUNT = 3
TRIES_AFTER_EACH = 12
HESITATION_S = 0.3
"""Of every second client between its connection and its login: at each reload there are some in between."""
PAUSE_S = 0.2
"""Of every client between two visits: the reload is what is tested, not the load."""
JUDGED = "u0"
"""Its password at the directory is not the one at the node, so a login tells by which rule it was decided."""


@pytest.fixture(scope="module")
def cluster(server_certificate: CertificateFiles) -> Iterator[SessionCluster]:
    """A front end that is entered in three ways."""
    node = DovecotNode("store1", settings="service imap-login {\n  service_count = 0\n}")
    node.start()
    made = SessionCluster(
        [node],
        server_certificate,
        listen=[listener("imap", "implicit"), listener("imap", proxy_protocol=["127.0.0.1/32"])],
        settings={"login": {"failure_delay": "0s", "auth": "directory"}},
        name="reload-logins",
        passwords={JUDGED: "directory-only"},
    )
    made.start()
    yield made
    made.server.stop()
    node.kill9()


class Crowd:
    """Clients that log in and out, one after the other, until the crowd is left. What went wrong is in `failures`."""

    def __init__(self, cluster: SessionCluster, trusted: ssl.SSLContext) -> None:
        self.failures: list[str] = []
        self.successes_count = 0
        self._cluster = cluster
        self._trusted = trusted
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(6)]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), "a client hangs"

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                answer = self._visit(number)
            except OSError as error:
                answer = repr(error)
            if answer.startswith(OK["imap"]):
                self.successes_count += 1
            else:
                self.failures.append(f"client {number}: {answer or 'the connection ended'}")
            self._stop.wait(PAUSE_S)

    def _visit(self, number: int) -> str:
        way = number % 3
        before = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 143\r\n" if way == 2 else b""
        with ExitStack() as stack:
            client = SessionClient(
                self._cluster.endpoint("imap", way),
                "imap",
                before=before,
                tls=self._trusted if way == 1 else None,
            )
            stack.callback(client.close)
            if number >= 3:
                self._stop.wait(HESITATION_S)
            # Without TLS only who comes from this machine may say a password.
            user = f"u{number + 1}"
            if way == 2:
                return client.ask("a CAPABILITY")
            answer = client.login(user)
            if answer.startswith(OK["imap"]):
                client.ask("a LOGOUT")
            return answer


def test_reloads_while_people_log_in(cluster: SessionCluster, authority: Authority) -> None:
    """Nobody is refused, cut off or left waiting; and from the moment that the reload is reported, every login is
    decided by the new rule."""
    with Crowd(cluster, authority.client_context()) as crowd:
        for number in range(RELOADS_COUNT):
            seen = crowd.successes_count
            wait_until(partial(lambda seen: crowd.successes_count >= seen + 10, seen), LIMIT_S, "logins")
            rule = ("node", "directory")[number % 2]
            workers = cluster.server.workers()
            cluster.server.change({"login": {"auth": rule}})
            assert cluster.server.reload()
            assert not set(cluster.server.workers()) & set(workers)
            wanted = (OK if rule == "node" else WRONG)["imap"]
            answers = [_answer(cluster) for _ in range(TRIES_AFTER_EACH)]
            assert [answer for answer in answers if not answer.startswith(wanted)] == [], rule
            assert crowd.failures == []
    assert crowd.failures == []


def _answer(cluster: SessionCluster) -> str:
    client = SessionClient(cluster.endpoint("imap"), "imap")
    try:
        return client.login(JUDGED)
    finally:
        client.close()


def test_who_is_connected_may_still_log_in_and_not_for_ever(cluster: SessionCluster) -> None:
    """A client that connected before the reload logs in at the old worker meanwhile; one that says nothing is told to
    come again, before the reload is reported."""
    early, silent = (SessionClient(cluster.endpoint("imap"), "imap") for _ in range(2))
    done: list[bool] = []
    reload = threading.Thread(target=lambda: done.append(cluster.server.reload()))
    workers = cluster.server.workers()
    reload.start()
    wait_until(lambda: not set(cluster.server.workers()) & set(workers), LIMIT_S, "the new workers")
    assert early.login("u9").startswith(OK["imap"])
    assert silent.until(b"* BYE").startswith("* BYE [UNAVAILABLE]")
    reload.join(LIMIT_S)
    assert done == [True]
    assert early.answers()
    for client in (early, silent):
        client.close()
