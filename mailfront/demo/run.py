"""`mailfront demo` from start to end: start the cluster, give the tour, stay up or stop.

Exit status 0: the whole tour was true (and, staying up, the end was asked for). 1: a claim failed or a process did; the
directory with all logs is then kept. However this process ends, its children end with it.
"""

import imaplib
import signal
import smtplib
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from mailfront.admin.errors import AdminError
from mailfront.demo.children import HOST, ChildFailed
from mailfront.demo.cluster import Cluster
from mailfront.demo.people import DOMAIN, PEOPLE
from mailfront.demo.screen import Screen
from mailfront.demo.tour import ClaimFailed, Tour

BACK_AFTER_S = 20.0
_LOOK_EVERY_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TROUBLE = (
    ClaimFailed,
    ChildFailed,
    AdminError,
    OSError,
    smtplib.SMTPException,
    imaplib.IMAP4.error,
    subprocess.TimeoutExpired,
)


class _Ending:
    """Turns Ctrl-C and its like into KeyboardInterrupt, and remembers: a broken-off dialogue may hide it."""

    def __init__(self) -> None:
        self.was_asked = False
        for number in _SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> NoReturn:
        self.was_asked = True
        raise KeyboardInterrupt

    def is_under_way(self) -> None:
        """From now on nothing hastens it: it is soon done, and half of it would leave processes behind."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def run(*, once: bool) -> int:
    """Run the demo. Returns the exit status."""
    ending = _Ending()
    screen = Screen()
    cluster = Cluster()
    tour = Tour(cluster, screen)
    is_true, keep = False, True
    try:
        _start(cluster, screen)
        tour.run()
        is_true = True
        if not once:
            _show_the_way(cluster, screen, tour.waited_id)
            _stay(cluster, screen)
        keep = False
    except KeyboardInterrupt:
        keep = False
    except _TROUBLE as error:
        if ending.was_asked:
            keep = False
        else:
            is_true = False
            screen.failed(str(error) or type(error).__name__)
    finally:
        ending.is_under_way()
        cluster.stop()
        if not keep:
            cluster.remove_directory()
    if keep:
        screen.row("logs", f"{cluster.directory}/*.log; all files are kept for you to look at, and may be removed")
    else:
        told = "Everything that was claimed was checked." if is_true else "The tour was not finished."
        screen.title(f"{told} All processes have ended, all files are removed.")
    return 0 if is_true else 1


def _start(cluster: Cluster, screen: Screen) -> None:
    screen.title("mailfront: a mail cluster on this machine")
    began_s = time.monotonic()
    cluster.start()
    for node in cluster.nodes.values():
        screen.row(node.id, f"a storage node: LMTP {HOST}:{node.lmtp}, IMAP {HOST}:{node.imap}")
    screen.row(
        "front end", f"SMTP {HOST}:{cluster.smtp}, IMAP {HOST}:{cluster.imap}: two workers, {len(PEOPLE)} people"
    )
    screen.row("started", f"in {time.monotonic() - began_s:.1f} s; all files are in {cluster.directory}")


def _show_the_way(cluster: Cluster, screen: Screen, waited_id: str) -> None:
    """Everything that a person needs to go on alone."""
    screen.title("Now it is yours. Ctrl-C ends it and removes all files.")
    screen.row("send", f"SMTP {HOST}:{cluster.smtp}, no TLS, no password; for {DOMAIN} only")
    screen.row("read", f"IMAP {HOST}:{cluster.imap}, no TLS: everybody is led to the own node; the users are below")
    screen.row("watch", f"http://{HOST}:{cluster.http}/metrics and /healthz; {cluster.directory}/front.log")
    beside = Path(sys.executable).with_name("mailfront")
    command = beside if beside.exists() else f"{sys.executable} -m mailfront"
    screen.row("ask", f"{command} -c {cluster.configuration_file} VERB, for example with these verbs:")
    for verb in (
        "ring show",
        f"ring explain ana@{DOMAIN}",
        "node list",
        "session list",
        "queue stats",
        "health",
        f"trace {waited_id}",
    ):
        screen.row("", verb)
    kill = cluster.nodes["store1"].process.pid
    screen.row(
        "break", f"kill -9 {kill} ends store1 for {BACK_AFTER_S:.0f} s: send it something and look at `node list`"
    )
    screen.title("Users")
    rows: list[tuple[str, ...]] = [("address", "login", "password", "home", "IMAP")]
    for each in PEOPLE:
        home = cluster.home_of(each.address)
        rows.append((each.address, each.name, each.password, home, f"{HOST}:{cluster.nodes[home].imap}"))
    screen.table(rows)


def _stay(cluster: Cluster, screen: Screen) -> None:
    """Wait for Ctrl-C. A node that dies, by the hand of whoever watches, comes back by itself; without the front end
    there is no demo (ChildFailed)."""
    front = cluster.front
    dead_since_s: dict[str, float] = {}
    while front.is_running:
        time.sleep(_LOOK_EVERY_S)
        for node in cluster.nodes.values():
            if node.process.is_running:
                continue
            if node.id not in dead_since_s:
                dead_since_s[node.id] = time.monotonic()
                screen.row(node.id, f"is dead; it comes back in {BACK_AFTER_S:.0f} s")
            elif time.monotonic() - dead_since_s[node.id] >= BACK_AFTER_S:
                del dead_since_s[node.id]
                cluster.bring_back(node.id)
                screen.row(node.id, f"is back, as process {node.process.pid}")
    raise ChildFailed(f"{front.name} has ended; its log: {front.log_path}")
