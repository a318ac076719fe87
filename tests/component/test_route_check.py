"""At RCPT the server of a route is asked whether it takes the address; only its refusal for good counts."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from mailfront.base.clock import ManualClock
from mailfront.delivery.route_check import ACCEPTED_S, AT_ONCE, REFUSED_S, SILENT_S, RouteCheck
from mailfront.delivery.transaction import Delivery
from mailfront.mail.address import Address
from mailfront.mail.next_hop import route_hop
from tests.support.delivery import delivery_to, endpoint_of, quick
from tests.support.lmtp_peer import Action, ScriptedLmtpPeer

HOP, OTHER = route_hop("lists.example.edu"), route_hop("trusted.example.edu")
STAFF, NOBODY = Address("staff", "lists.example.edu"), Address("nobody", "lists.example.edu")
UNKNOWN = Action(replies=("550 5.1.1 no such list",))


@pytest.fixture
def peer() -> Iterator[ScriptedLmtpPeer]:
    with ScriptedLmtpPeer({f"RCPT <{NOBODY}>": UNKNOWN}) as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def delivery(peer: ScriptedLmtpPeer) -> AsyncIterator[Delivery]:
    settings = quick(connect_timeout="5s", reply_timeout="5s")
    made = delivery_to({hop: endpoint_of(peer.endpoint) for hop in (HOP, OTHER)}, settings=settings)
    yield made
    await made.close()


@pytest.fixture
def check(delivery: Delivery, clock: ManualClock) -> RouteCheck:
    return RouteCheck(delivery, [HOP], clock)


async def test_the_servers_own_word_is_the_clients_answer(check: RouteCheck, peer: ScriptedLmtpPeer) -> None:
    """No such list: its 550. A list: nothing against it. No message was begun with a sender."""
    assert str(await check.refusal(HOP, NOBODY)) == "550 5.1.1 no such list"
    assert await check.refusal(HOP, STAFF) is None
    assert all(each.mail.startswith("MAIL FROM:<>") for each in peer.transactions)
    assert "DATA" not in peer.verbs()


async def test_answers_are_remembered_for_a_while(
    check: RouteCheck, peer: ScriptedLmtpPeer, clock: ManualClock
) -> None:
    """The second question is answered from memory; a refusal is asked again sooner than an acceptance."""
    for _ in range(3):
        assert await check.refusal(HOP, STAFF) is None
        assert await check.refusal(HOP, NOBODY) is not None
    assert peer.connections == 2
    clock.advance(REFUSED_S + 1)
    await check.refusal(HOP, STAFF)
    await check.refusal(HOP, NOBODY)
    assert peer.connections == 3
    clock.advance(ACCEPTED_S)
    await check.refusal(HOP, STAFF)
    assert peer.connections == 4


async def test_a_refusal_without_an_enhanced_code_counts(check: RouteCheck, peer: ScriptedLmtpPeer) -> None:
    """Older servers say only 550: that is about the address too."""
    peer.set_script({"RCPT": Action(replies=("550 unknown user",))})
    assert str(await check.refusal(HOP, NOBODY)) == "550 unknown user"


@pytest.mark.parametrize(
    "script",
    [
        {"RCPT": Action(replies=("450 4.2.0 not now",))},
        {"RCPT": Action(replies=("550 5.7.1 a list takes no mail from nobody",))},
        {"RCPT": Action(then="close")},
        {"MAIL": Action(replies=("451 4.3.0 busy",))},
        {"connect": Action(replies=("421 4.3.2 away",), then="close")},
    ],
)
async def test_all_else_lets_the_recipient_in(
    check: RouteCheck, peer: ScriptedLmtpPeer, script: dict[str, Action]
) -> None:
    """Its trouble is not the client's: the queue keeps the mail."""
    peer.set_script(script)
    assert await check.refusal(HOP, NOBODY) is None


async def test_a_server_that_is_away_is_not_asked_for_everybody(
    check: RouteCheck, peer: ScriptedLmtpPeer, clock: ManualClock
) -> None:
    """One client waits for it, the next ones do not; later it is asked again."""
    peer.set_script({"connect": Action(then="close")})
    assert await check.refusal(HOP, NOBODY) is None
    peer.set_script({"RCPT": UNKNOWN})
    assert await check.refusal(HOP, NOBODY) is None
    assert peer.connections == 1
    clock.advance(SILENT_S + 1)
    assert await check.refusal(HOP, NOBODY) is not None


async def test_only_so_many_questions_at_once_and_only_where_wanted(check: RouteCheck, peer: ScriptedLmtpPeer) -> None:
    """Who finds no room is let in without a wait; a route with `verify = false` is never asked."""
    peer.set_script({"RCPT": Action(delay_s=0.3, replies=("550 5.1.1 no such list",))})
    many = [Address(f"n{number}", "lists.example.edu") for number in range(AT_ONCE + 2)]
    answers = await asyncio.gather(*(check.refusal(HOP, address) for address in many))
    assert sum(answer is not None for answer in answers) == AT_ONCE
    assert await check.refusal(OTHER, NOBODY) is None
    assert peer.connections == AT_ONCE
