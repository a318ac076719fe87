"""`greylist` and `rate` with real counters: a real store, a real channel, two workers, and a keeper that goes away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mailfront.base.clock import ManualClock
from mailfront.base.ids import new_message_id
from mailfront.filters.contract import FilterFailed, Mail, Rcpt, Recipient
from mailfront.filters.counting import tallies
from mailfront.filters.counting.client import CounterClient
from mailfront.filters.counting.service import CounterService
from mailfront.filters.greylist import GreylistFilter, GreylistSettings
from mailfront.filters.rate import KIND as RATE_KIND
from mailfront.filters.rate import RateFilter, RateSettings
from mailfront.mail.client import ClientInfo
from mailfront.mail.verdict import Action, Verdict
from mailfront.net.channel import Channel, ChannelServer
from mailfront.store.tally_rows import live_tallies
from mailfront.store.writer import Store
from tests.support.filter_kinds import address, context


class Keeper:
    """The keeper's part: store, counters and channel; `stopped` ends all three in order."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.socket = str(folder / "keeper.sock")
        self.store = Store.open(f"sqlite:///{folder}/state.db", clock, free_space_bytes=0)
        self.counters = CounterService(self.store)
        self.server = ChannelServer(self.socket, {}, on_peer=lambda _: None, on_peer_gone=lambda _: None)

    async def start(self) -> None:
        await self.counters.load()
        self.counters.serve(self.server)
        self.server.start()

    async def stop(self) -> None:
        self.server.close()
        await self.counters.close()
        await self.store.close()


@asynccontextmanager
async def worker(keeper: Keeper, name: str = "worker-0") -> AsyncIterator[CounterClient]:
    channel = Channel(keeper.socket, name)
    channel.start()
    await channel.wait_connected(20)
    yield CounterClient(channel)
    await channel.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def keeper(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Keeper]:
    made = Keeper(tmp_path, clock)
    await made.start()
    yield made
    await made.stop()


def mail(ip: str = "192.0.2.1", sender: str = "ann@example.org", *, dry_run: bool = False) -> Mail:
    return Mail(
        id=new_message_id(0.0),
        client=ClientInfo(ip=ip, port=1),
        reverse_path=address(sender) if sender else None,
        dry_run=dry_run,
    )


def rcpt(envelope: Mail, recipient: str = "ana@example.test") -> Rcpt:
    return Rcpt(mail=envelope, recipient=Recipient(address=address(recipient)))


def greylist(counters: CounterClient, **settings: object) -> GreylistFilter:
    found = GreylistSettings.model_validate({"delay": "5m", **settings})
    return GreylistFilter(found, context(services={"counters": counters}, name="greylist"))


def rate(counters: CounterClient, *limits: dict[str, object], **settings: object) -> RateFilter:
    found = RateSettings.model_validate({"limits": list(limits), **settings})
    return RateFilter(found, context(services={"counters": counters}, name="rate"))


async def asked(filter_: GreylistFilter | RateFilter, view: Mail | Rcpt) -> Verdict:
    answer = filter_.mail(view) if isinstance(view, Mail) else filter_.rcpt(view)
    return answer if isinstance(answer, Verdict) else await answer


async def test_a_stranger_must_come_again(keeper: Keeper, clock: ManualClock) -> None:
    """451 with the time to wait; after that it passes, from any server of the network and through any worker."""
    async with worker(keeper) as one, worker(keeper, "worker-1") as two:
        first = await asked(greylist(one), rcpt(mail()))
        assert (first.action, first.code, first.text) == (
            Action.TEMPFAIL,
            451,
            "greylisted, try again in 300 seconds",
        )
        clock.advance(299)
        assert (await asked(greylist(two), rcpt(mail()))).action is Action.TEMPFAIL
        clock.advance(2)
        assert (await asked(greylist(two), rcpt(mail("192.0.2.200")))).action is Action.CONTINUE
        assert (await asked(greylist(one), rcpt(mail()))).action is Action.CONTINUE
        assert (await asked(greylist(one), rcpt(mail(), "bob@example.test"))).action is Action.TEMPFAIL
        assert (await asked(greylist(one), rcpt(mail(sender="")))).action is Action.TEMPFAIL


async def test_exempt_clients_and_dry_runs_are_not_counted(keeper: Keeper) -> None:
    """A listed network, a UNIX socket, and a rehearsal."""
    async with worker(keeper) as counters:
        filter_ = greylist(counters, exempt=["192.0.2.0/24"])
        for view in (mail(), mail(""), mail("198.51.100.1", dry_run=True)):
            assert (await asked(filter_, rcpt(view))).action is Action.CONTINUE


async def test_counters_survive_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    """What one keeper counted the next one knows: a triplet that has waited, a limit that is used up."""
    first = Keeper(tmp_path, clock)
    await first.start()
    async with worker(first) as counters:
        await asked(greylist(counters), rcpt(mail()))
        limit = {"by": "address", "count": 1, "per": "1h"}
        assert (await asked(rate(counters, limit), mail())).action is Action.CONTINUE
    await first.stop()
    clock.advance(301)
    second = Keeper(tmp_path, clock)
    await second.start()
    async with worker(second) as counters:
        assert (await asked(greylist(counters), rcpt(mail()))).action is Action.CONTINUE
        assert (await asked(rate(counters, limit), mail())).action is Action.TEMPFAIL
    await second.stop()


async def test_workers_share_a_limit(keeper: Keeper) -> None:
    """Three of an hour, taken by two workers in turn; the fourth hears how long to wait."""
    async with worker(keeper) as one, worker(keeper, "worker-1") as two:
        limit = {"by": "network", "count": 3, "per": "1h"}
        filters = [rate(one, limit), rate(two, limit)]
        for number in range(3):
            assert (await asked(filters[number % 2], mail(f"192.0.2.{number}"))).action is Action.CONTINUE
        verdict = await asked(filters[1], mail("192.0.2.77"))
        assert (verdict.action, verdict.code) == (Action.TEMPFAIL, 450)
        assert verdict.text == "too many messages by network, try again in 1200 seconds"
        assert (await asked(filters[1], mail("198.51.100.1"))).action is Action.CONTINUE


@pytest.mark.parametrize(
    ("by", "same", "other"),
    [
        ("address", mail("2001:db8::1"), mail("2001:db8::2")),
        ("network", mail("2001:db8::2"), mail("2001:db8:0:1::1")),
        ("sender", mail(sender="ANN@example.org"), mail(sender="eve@example.org")),
        ("sender_domain", mail(sender="eve@example.org"), mail(sender="eve@other.org")),
    ],
)
async def test_each_limit_counts_its_own(keeper: Keeper, by: str, same: Mail, other: Mail) -> None:
    """By address, network, sender and sender's domain: the same is over, another is not."""
    async with worker(keeper) as counters:
        filter_ = rate(counters, {"by": by, "count": 1, "per": "1h"})
        await asked(filter_, mail("2001:db8::1"))
        assert (await asked(filter_, same)).action is Action.TEMPFAIL
        assert (await asked(filter_, other)).action is Action.CONTINUE


async def test_recipients_are_counted_at_rcpt(keeper: Keeper) -> None:
    """How many recipients one sender names, and how much one recipient gets; each in its stage."""
    async with worker(keeper) as counters:
        by_sender = rate(counters, {"by": "sender", "count": 2, "per": "1h", "of": "recipients"}, action="reject")
        assert [stage.value for stage in RATE_KIND.stages_of(by_sender._settings)] == ["rcpt"]
        for recipient in ("a@example.test", "b@example.test"):
            assert (await asked(by_sender, rcpt(mail(), recipient))).action is Action.CONTINUE
        assert (await asked(by_sender, rcpt(mail(), "c@example.test"))).action is Action.REJECT
        per_recipient = rate(counters, {"by": "recipient", "count": 1, "per": "1h"})
        assert (await asked(per_recipient, rcpt(mail()))).action is Action.CONTINUE
        assert (await asked(per_recipient, rcpt(mail(sender="eve@other.org")))).action is Action.TEMPFAIL


async def test_a_crowd_leaves_the_database_too(
    keeper: Keeper, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys beyond the most, and keys whose time is over, are removed from memory and from the table."""
    monkeypatch.setattr(tallies, "MOST_KEYS", 3)

    async def rows_count() -> int:
        return len(list(await keeper.store.read(lambda connection: live_tallies(connection, 0.0, 100))))

    async with worker(keeper) as counters:
        for number in range(8):
            await asked(greylist(counters), rcpt(mail(f"192.0.{number}.1")))
            clock.advance(1)
        await keeper.counters.close()
        assert await rows_count() == 8
        await keeper.counters.tidy()
        assert await rows_count() == 3
        clock.advance(3 * 86400)
        await keeper.counters.tidy()
        assert await rows_count() == 0


async def test_without_a_keeper_nobody_can_tell(keeper: Keeper) -> None:
    """The filter fails, and its `on_error` decides; neither passes nor refuses by itself."""
    async with worker(keeper) as counters:
        keeper.server.close()
        with pytest.raises(FilterFailed):
            await asked(greylist(counters), rcpt(mail()))
        with pytest.raises(FilterFailed):
            await asked(rate(counters, {"by": "address", "count": 1, "per": "1h"}), mail())


def test_settings_that_let_nobody_pass_are_mistakes() -> None:
    """A window within the delay; two limits that count the same."""
    with pytest.raises(ValueError, match="nobody comes through"):
        GreylistSettings.model_validate({"delay": "1h", "window": "30m"})
    limit = {"by": "address", "count": 1, "per": "1h"}
    with pytest.raises(ValueError, match="keep the lower one"):
        RateSettings.model_validate({"limits": [limit, {**limit, "count": 2}]})
