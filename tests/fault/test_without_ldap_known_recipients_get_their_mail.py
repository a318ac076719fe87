"""LDAP stopped, and LDAP hanging: who is known stays known, who is not is asked to come again, and nobody waits.

A real slapd and a scripted node. One worker, so that there is one cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import pytest

from tests.support.ldap import Slapd, ordinary_people
from tests.support.lmtp_peer import ScriptedLmtpPeer
from tests.support.mailfront_server import MailfrontServer
from tests.support.processes import wait_until
from tests.support.senders import Letter, send

pytestmark = pytest.mark.serial
KNOWN = [f"user{number:04}" for number in range(20)]
NEVER_ASKED = {"stopped": ("user0020", "user0021"), "hanging": ("user0030", "user0031")}
CACHE_S = 1.0


class Site:
    """A front end, its directory and its node."""

    def __init__(self, slapd: Slapd, peer: ScriptedLmtpPeer) -> None:
        self.slapd = slapd
        self.peer = peer
        node = {"id": "store1", "host": peer.host, "lmtp": peer.port, "imap": peer.port}
        self.server = MailfrontServer([node], slapd, name="fault")
        self.server.change(
            {
                "server": {"workers": 1},
                "directory": {"cache": f"{CACHE_S:g}s", "negative": f"{CACHE_S:g}s", "timeout": "1s"},
                "storage": {"secondaries": 0},
            }
        )

    def answer(self, mailbox: str) -> tuple[int, str]:
        """The reply to a message for one mailbox."""
        letter = Letter([mailbox])
        result = send(self.server.smtp, letter)
        return result.code, result.text

    def typical_s(self) -> float:
        """How long a message to somebody known takes."""
        times: list[float] = []
        for mailbox in KNOWN:
            letter = Letter([mailbox])
            assert send(self.server.smtp, letter).ok
            times.append(letter.last.took_s)
        return median(times)

    def directory_condition(self) -> str:
        """What `health` says about the directory."""
        conditions = self.server.cli_json("health")["conditions"]
        return next(str(condition["state"]) for condition in conditions if condition["name"] == "directory")

    def wait_until_expired(self) -> None:
        """Wait until the server asks the directory again for what it asked before."""
        before = self.slapd.searches()

        def asks() -> bool:
            assert self.answer(KNOWN[0])[0] == 250
            return self.slapd.searches() > before

        wait_until(asks, 10 * CACHE_S, "the end of the cached answers", 0.1)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """All of it, running."""
    slapd = Slapd(people=ordinary_people(60))
    slapd.start()
    with ScriptedLmtpPeer() as peer:
        site = Site(slapd, peer)
        try:
            site.server.start()
            yield site
        finally:
            site.server.kill9_all()
            slapd.kill9()


@contextmanager
def away(site: Site, how: str) -> Iterator[None]:
    """The directory is stopped, or hangs."""
    if how == "stopped":
        site.slapd.stop()
    else:
        site.slapd.hang()
    try:
        yield
    finally:
        if how == "stopped":
            site.slapd.start()
        else:
            site.slapd.resume()


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_the_directory_is_away(site: Site, how: str) -> None:
    """Known recipients get their mail as quickly as before, from answers that are out of date; for all others the
    answer is 451, never 550; and when the directory is back, so is the 550."""
    wait_until(lambda: site.answer("nobody-at-all")[0] == 550, 10.0, "an answer of the directory")
    well_s = site.typical_s()
    site.wait_until_expired()
    with away(site, how):
        # The first ones find out; what the cache still has is used up.
        wait_until(lambda: site.answer("nobody-at-all")[0] == 451, 10.0, "the end of the cached refusal")
        stale_s = site.typical_s()
        for stranger in (*NEVER_ASKED[how], "nobody-at-all", "nobody-either"):
            code, text = site.answer(stranger)
            assert (code, text[:5]) == (451, "4.4.3")
        again_s = site.typical_s()
        wait_until(lambda: site.directory_condition() == "degraded", 60.0, "health to say so", 0.5)
    print(f"directory {how}: a known recipient took {well_s:.4f} s, then {stale_s:.4f} s and {again_s:.4f} s")
    assert again_s < max(3 * well_s, 0.1)
    wait_until(lambda: site.answer("nobody-at-all")[0] == 550, 40.0, "the directory's return")
    assert [site.answer(stranger)[0] for stranger in NEVER_ASKED[how]] == [250, 250]
