"""Kind `dnsbl` against a name server on loopback: weights and thresholds, what counts, what is kept, and what trouble
with DNS means: nothing."""

import inspect
from collections.abc import AsyncIterator, Iterator

import pytest

from mailfront.base.clock import ManualClock
from mailfront.filters.checked import checked
from mailfront.filters.contract import Connection
from mailfront.filters.dnsbl.filter import REMEMBERED_S, DnsblFilter
from mailfront.filters.dnsbl.settings import DnsblSettings
from mailfront.mail.client import ClientInfo
from mailfront.mail.verdict import Action, Verdict
from tests.support.dns_server import FAILS, SILENT, DnsServer
from tests.support.filter_kinds import context

RECORDS = {
    "1.2.0.192.bad.test": {"A": ["127.0.0.2"]},
    "2.2.0.192.bad.test": {"A": ["127.0.0.2"]},
    "2.2.0.192.worse.test": {"A": ["127.0.0.10"]},
    "2.2.0.192.good.test": {"A": ["127.0.0.1"]},
    "3.2.0.192.bad.test": {"A": ["127.0.0.2"]},
    "3.2.0.192.worse.test": {"A": ["127.0.0.10"]},
    "4.2.0.192.bad.test": {"A": ["127.255.255.254", "192.0.2.1"]},
    "4.2.0.192.worse.test": {"A": ["127.0.0.77"]},
    "5.2.0.192.bad.test": FAILS,
    "5.2.0.192.worse.test": SILENT,
    "6.2.0.192.bad.test": SILENT,
    "6.2.0.192.worse.test": {"A": ["127.0.0.10"]},
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.worse.test": {"A": ["127.0.0.10"]},
}


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    with DnsServer(dict(RECORDS)) as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def dnsbl(server: DnsServer, clock: ManualClock) -> AsyncIterator[DnsblFilter]:
    document = {
        "lists": [
            {"zone": "bad.test"},
            {"zone": "worse.test", "weight": 2, "answers": ["127.0.0.10", "127.0.0.16/30"]},
            {"zone": "good.test", "weight": -2},
        ],
        "reject_at": 2,
        "name_servers": [server.address],
        "dns_timeout": "1s",
        "exempt": ["192.0.2.3/32"],
    }
    filter_ = DnsblFilter(DnsblSettings.model_validate(document), context(clock=clock))
    await filter_.start()
    yield filter_
    await filter_.close()


async def ask(filter_: DnsblFilter, ip: str) -> Verdict:
    answer = filter_.connect(Connection(client=ClientInfo(ip=ip, port=1)))
    return checked(answer if isinstance(answer, Verdict) else await answer)


async def test_one_weight_below_the_threshold_is_only_told(dnsbl: DnsblFilter) -> None:
    """A score of 1 where 2 refuses: the client goes on, and the log has the score."""
    verdict = await ask(dnsbl, "192.0.2.1")
    assert (verdict.action, verdict.score, verdict.reason) == (Action.CONTINUE, 1.0, "score 1: bad.test")


async def test_weights_are_added(dnsbl: DnsblFilter) -> None:
    """1 + 2 - 2: a list of good addresses takes back what others say."""
    assert (await ask(dnsbl, "192.0.2.2")).score == 1.0


async def test_ipv6_addresses_are_looked_up(dnsbl: DnsblFilter) -> None:
    """By their nibbles; the client hears which list names it."""
    verdict = await ask(dnsbl, "2001:db8::1")
    assert (verdict.action, verdict.code) == (Action.REJECT, 554)
    assert verdict.text == "2001:db8::1 is listed by worse.test"


async def test_exempt_and_private_clients_are_not_looked_up(dnsbl: DnsblFilter, server: DnsServer) -> None:
    """An exempt one that is listed, loopback, private networks, and a client without an address."""
    asked_count = len(server.asked)
    for ip in ("192.0.2.3", "127.0.0.1", "10.1.2.3", "::1", "fe80::1", "fd00::1", ""):
        assert (await ask(dnsbl, ip)) == Verdict()
    assert len(server.asked) == asked_count


async def test_only_wanted_answers_count(dnsbl: DnsblFilter) -> None:
    """Error codes of a list, addresses that are no answers, and answers that were not asked for count nothing."""
    assert (await ask(dnsbl, "192.0.2.4")) == Verdict()


async def test_dns_trouble_scores_nothing(dnsbl: DnsblFilter) -> None:
    """A list that fails or is silent neither refuses nor delays beyond its time; the others still count."""
    assert (await ask(dnsbl, "192.0.2.5")) == Verdict()
    assert (await ask(dnsbl, "192.0.2.6")).action is Action.REJECT


async def test_a_known_address_is_answered_at_once(dnsbl: DnsblFilter, server: DnsServer, clock: ManualClock) -> None:
    """The second connection costs no query and no task, until the answer is old."""
    view = Connection(client=ClientInfo(ip="2001:db8::1", port=1))
    await ask(dnsbl, "2001:db8::1")
    hits = [each for each in server.asked if each[0].endswith("8.b.d.0.1.0.0.2.worse.test")]
    assert isinstance(dnsbl.connect(view), Verdict)
    clock.advance(REMEMBERED_S + 1)
    answer = dnsbl.connect(view)
    assert inspect.isawaitable(answer)
    await answer
    # The list's answer itself is still good.
    assert hits == [each for each in server.asked if each[0].endswith("8.b.d.0.1.0.0.2.worse.test")]


def test_a_list_stands_once() -> None:
    """The same zone twice is a mistake, and is told."""
    with pytest.raises(ValueError, match="named more than once"):
        DnsblSettings.model_validate({"lists": [{"zone": "bad.test"}, {"zone": "BAD.test"}]})
