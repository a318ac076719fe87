"""What filters ask the counters for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateAsk:
    """Take `amount` of a limit of `count` per `per_s` under `key`."""

    key: str
    count: int
    per_s: float
    amount: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GreyAsk:
    """May this triplet pass? `network` is the key of the client's network, or '' if those are not learnt.

    A triplet must come again after `delay_s` and before `window_s` have passed. It then passes for `keep_s` from its
    last use, and so does everything of a network of which `learn_count` triplets came through (0: never).
    """

    triplet: str
    network: str
    delay_s: float
    window_s: float
    keep_s: float
    learn_count: int
