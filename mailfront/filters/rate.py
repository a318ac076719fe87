"""Kind `rate`: how much may come from one network, address, sender, or for one recipient, in a given time.

Limits on messages are asked at MAIL, limits on recipients at each RCPT that the directory has accepted. All limits of a
filter are taken together or not at all, so a try that is refused costs nothing of any of them. A limit refills evenly:
of 100 an hour one more is free after 36 seconds.

The counters are the keeper's: all workers share them, and they survive a restart. While the keeper is away nobody can
tell, and `on_error` decides.
"""

from collections.abc import Sequence
from math import ceil
from typing import Literal

from pydantic import Field, model_validator

from mailfront.base.errors import Unavailable
from mailfront.base.settings import DurationS, Settings
from mailfront.filters.client_network import client_network
from mailfront.filters.contract import Answer, Filter, FilterContext, FilterFailed, Kind, Mail, Rcpt, Stage
from mailfront.filters.counting.asks import RateAsk
from mailfront.filters.counting.client import counter_key, counters_of
from mailfront.mail.address import Address
from mailfront.mail.verdict import CONTINUE, Verdict
from mailfront.net.networks import Networks, is_listed

By = Literal["network", "address", "sender", "sender_domain", "recipient"]


class LimitSettings(Settings):
    """One limit."""

    by: By
    """Who or what is counted: the client's `network` (/24 or /64), its `address`, the `sender`, the `sender_domain`,
    or the `recipient`."""
    count: int = Field(ge=1, le=1_000_000)
    """How many."""
    per: DurationS = Field(gt=0, le=31 * 86400)
    """In which time."""
    of: Literal["messages", "recipients"] = "messages"
    """What is counted. `by = "recipient"` counts the messages for each recipient, in any case."""


class RateSettings(Settings):
    """The limits, and what a client hears that is over one of them."""

    limits: tuple[LimitSettings, ...] = Field(strict=False, min_length=1, max_length=20)
    """The limits; all must hold: `{ by = "network", count = 100, per = "1h" }`."""
    action: Literal["tempfail", "reject"] = "tempfail"
    """`tempfail` answers 450 with the time to wait, `reject` answers 550."""
    exempt: Networks = ()
    """Clients that are not counted."""

    @model_validator(mode="after")
    def _each_once(self) -> "RateSettings":
        kinds = [(each.by, each.of, each.per) for each in self.limits]
        if len(set(kinds)) < len(kinds):
            raise ValueError("two limits count the same in the same time; keep the lower one")
        return self


def _is_at_rcpt(limit: LimitSettings) -> bool:
    return limit.by == "recipient" or limit.of == "recipients"


def _stages(settings: RateSettings) -> frozenset[Stage]:
    return frozenset(Stage.RCPT if _is_at_rcpt(each) else Stage.MAIL for each in settings.limits)


class RateFilter(Filter):
    """See the module."""

    def __init__(self, settings: RateSettings, context: FilterContext) -> None:
        self._settings = settings
        self._name = context.name
        self._services = context.services
        self._at_mail = [each for each in settings.limits if not _is_at_rcpt(each)]
        self._at_rcpt = [each for each in settings.limits if _is_at_rcpt(each)]

    def mail(self, mail: Mail) -> Answer:
        """See `Filter`."""
        return self._count(self._at_mail, mail, None)

    def rcpt(self, rcpt: Rcpt) -> Answer:
        """See `Filter`."""
        return self._count(self._at_rcpt, rcpt.mail, rcpt.recipient.address)

    def _count(self, limits: Sequence[LimitSettings], mail: Mail, recipient: Address | None) -> Answer:
        if mail.dry_run or is_listed(mail.client.ip, self._settings.exempt):
            return CONTINUE
        wanted = [(limit, value) for limit in limits if (value := _counted(limit.by, mail, recipient))]
        return self._ask(wanted) if wanted else CONTINUE

    async def _ask(self, wanted: Sequence[tuple[LimitSettings, str]]) -> Verdict:
        asks = [
            RateAsk(
                key=counter_key(self._name, limit.by, limit.of, str(limit.per), value),
                count=limit.count,
                per_s=limit.per,
            )
            for limit, value in wanted
        ]
        try:
            waits_s = await counters_of(self._services).take_rates(asks)
        except Unavailable as error:
            raise FilterFailed(str(error)) from error
        wait_s, number = max((wait_s, number) for number, wait_s in enumerate(waits_s))
        if wait_s <= 0:
            return CONTINUE
        limit, value = wanted[number]
        what = "messages" if limit.by == "recipient" else limit.of
        text = f"too many {what} by {limit.by.replace('_', ' ')}, try again in {ceil(wait_s)} seconds"
        reason = f"over {limit.count} {what} by {limit.by}: {value}"
        if self._settings.action == "reject":
            return Verdict.reject(text, reason=reason)
        return Verdict.tempfail(text, code=450, reason=reason)


def _counted(by: By, mail: Mail, recipient: Address | None) -> str:
    """What a limit counts by in this envelope; '': it does not apply."""
    match by:
        case "network":
            return client_network(mail.client.ip)
        case "address":
            return mail.client.ip
        case "sender":
            return mail.reverse_path.key if mail.reverse_path else ""
        case "sender_domain":
            return mail.reverse_path.domain if mail.reverse_path else ""
        case "recipient":
            return recipient.key if recipient else ""


KIND = Kind(
    summary="Limits how much comes from one client or sender, or for one recipient, in a given time.",
    settings=RateSettings,
    stages=_stages,
    make=RateFilter,
    concurrency=1000,
)
