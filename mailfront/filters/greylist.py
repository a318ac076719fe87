"""Kind `greylist`: whoever is not known must come again later, which a mail server does and many bots do not.

What is looked at is the triplet of the client's network (/24 or /64), sender and recipient. The first time the
recipient is refused for now (451); from `delay` on, and before `window` is over, it passes, and stays known for
`remember` from its last use. A network of which `learn` triplets came through is known as a whole.

Asked for each recipient, after the directory has accepted it. The counters are the keeper's: all workers share them,
and they survive a restart. While the keeper is away nobody can tell, and `on_error` decides.
"""

from math import ceil

from pydantic import Field, model_validator

from mailfront.base.errors import Unavailable
from mailfront.base.settings import DurationS, Settings
from mailfront.base.units import show_duration
from mailfront.filters.client_network import client_network
from mailfront.filters.contract import Answer, Filter, FilterContext, FilterFailed, Kind, Rcpt, Stage
from mailfront.filters.counting.asks import GreyAsk
from mailfront.filters.counting.client import counter_key, counters_of
from mailfront.mail.verdict import CONTINUE, Verdict
from mailfront.net.networks import Networks, is_listed


class GreylistSettings(Settings):
    """How long strangers wait, and for how long they are known afterwards."""

    delay: DurationS = Field(default=300.0, ge=0)
    """How long a triplet that was never seen is refused."""
    window: DurationS = Field(default=2 * 86400.0, gt=0)
    """How long after the first try it must have come again; later it is as if it was never seen."""
    remember: DurationS = Field(default=36 * 86400.0, gt=0)
    """For how long what came through is known, from its last use."""
    learn: int = Field(default=5, ge=0, le=1000)
    """After this many triplets of one network came through, all mail from there passes. 0: never."""
    exempt: Networks = ()
    """Clients that never wait."""

    @model_validator(mode="after")
    def _window_after_delay(self) -> "GreylistSettings":
        if self.window <= self.delay:
            raise ValueError(
                f"window ({show_duration(self.window)}) must be longer than delay ({show_duration(self.delay)}), "
                "or nobody comes through"
            )
        return self


class GreylistFilter(Filter):
    """See the module."""

    def __init__(self, settings: GreylistSettings, context: FilterContext) -> None:
        self._settings = settings
        self._name = context.name
        self._services = context.services

    def rcpt(self, rcpt: Rcpt) -> Answer:
        """See `Filter`."""
        network = client_network(rcpt.mail.client.ip)
        if not network or rcpt.dry_run or is_listed(rcpt.mail.client.ip, self._settings.exempt):
            return CONTINUE
        return self._ask(network, rcpt)

    async def _ask(self, network: str, rcpt: Rcpt) -> Verdict:
        settings, sender = self._settings, rcpt.mail.reverse_path
        ask = GreyAsk(
            triplet=counter_key(self._name, network, sender.key if sender else "", rcpt.recipient.address.key),
            network=counter_key(self._name, network) if settings.learn else "",
            delay_s=settings.delay,
            window_s=settings.window,
            keep_s=settings.remember,
            learn_count=settings.learn,
        )
        try:
            wait_s = await counters_of(self._services).grey(ask)
        except Unavailable as error:
            raise FilterFailed(str(error)) from error
        if wait_s <= 0:
            return CONTINUE
        return Verdict.tempfail(f"greylisted, try again in {ceil(wait_s)} seconds", reason=f"greylisted: {network}")


KIND = Kind(
    summary="Refuses mail from strangers for some minutes, which servers survive and many bots do not.",
    settings=GreylistSettings,
    stages=frozenset({Stage.RCPT}),
    make=GreylistFilter,
    concurrency=1000,
)
