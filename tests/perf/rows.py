"""The rows of `make bench`: one load, the systems that it is put on, and what mailfront must reach.

A target compares medians of one run, or medians of ratios taken round by round; it never asks for an absolute time.
The one figure of CPU milliseconds is shown with its target, and a machine that is busy or slow will miss it.
"""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.perf.chain_cost import CHAIN_LENGTHS, chain_cost
from tests.perf.flood import LISTED_COUNT
from tests.perf.lab import Lab
from tests.perf.load import LoadFailed, Sample, generated, held, measured, messages
from tests.perf.systems import Postfix, System
from tests.support.processes import wait_until

RUN = Callable[[Lab, System, int], Sample]
Value = Callable[[Mapping[str, Sample]], float]
"""From one round's samples by system to a figure."""
DRAIN_LIMIT_S = 120.0
KNOWN_AFTER = 8
"""After so many connections of each client every worker has seen nearly all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a row must reach: `value` of each round, then the median, against `bound`."""

    text: str
    bound: float
    at_least: bool
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the benchmark. `count` is for one sample; `unit` is what is counted."""

    name: str
    title: str
    systems: Sequence[str]
    count: int
    run: RUN
    unit: str = "messages"
    targets: Sequence[Target] = field(default=())
    shows: Sequence[str] = field(default=())
    """Further figures of the samples that the table shows."""


def rate_of(name: str, other: str) -> Value:
    """How many times faster one system is than another."""
    return lambda samples: samples[name].rate / samples[other].rate


def cpu_of(name: str, other: str) -> Value:
    """How many times the CPU of another a system needs for each message."""
    return lambda samples: (samples[name].cpu_ms or 0.0) / (samples[other].cpu_ms or float("inf"))


def figure_of(name: str, figure: str, other: str) -> Value:
    """How many times another's figure a system has."""
    return lambda samples: samples[name].extra[figure] / samples[other].extra[figure]


def _rate_at_least(text: str, bound: float, name: str, other: str) -> Target:
    return Target(text=text, bound=bound, at_least=True, value=rate_of(name, other))


def _cpu_at_most(name: str, bound_ms: float) -> Target:
    return Target(
        text=f"{bound_ms:.2f} ms CPU", bound=bound_ms, at_least=False, value=lambda found: found[name].cpu_ms or 0.0
    )


def _source(size_bytes: int, *options: str) -> RUN:
    return lambda lab, system, count: messages(system, count=count, size_bytes=size_bytes, options=options or ("-N",))


def _secure(lab: Lab, system: System, count: int) -> Sample:
    spec = {"kind": "secure", "size": 4000, "count": count, "parallel": 8, "resume": True, "ca": str(lab.ca_file)}
    return generated(system, spec)


def _into_the_queue(lab: Lab, system: System, count: int) -> Sample:
    return messages(system, count=count, size_bytes=30_000, until_handed_on=False)


def _drain(lab: Lab, system: System, count: int) -> Sample:
    """Bring the nodes back and see the queue run empty. The time begins with the first message that leaves."""
    held_count = system.queued_count()
    if held_count == 0:
        raise LoadFailed(f"{system.name}: nothing is queued; the row before this one fills the queue")
    with lab.nodes_back(system):

        def work() -> tuple[float, int, dict[str, float]]:
            if isinstance(system, Postfix):
                system.flush()
            begun_s = time.monotonic()
            wait_until(lambda: system.queued_count() < held_count, DRAIN_LIMIT_S, f"{system.name} to begin")
            first_s = time.monotonic()
            wait_until(lambda: not system.queued_count(), DRAIN_LIMIT_S, f"the end of {system.name}'s queue")
            return time.monotonic() - first_s, held_count, {"began_after_s": first_s - begun_s}

        return measured(system, work)


def _generated(kind: str, **more: object) -> RUN:
    return lambda lab, system, count: generated(
        system, {"kind": kind, "count": count, "parallel": 20, "users": 1000, "role": "imap", **more}
    )


def _idle(*, secure: bool) -> RUN:
    def run(lab: Lab, system: System, count: int) -> Sample:
        spec: dict[str, object] = {"kind": "idle", "count": count, "parallel": 50, "users": 1000, "role": "imap"}
        if secure:
            spec |= {"role": "imaps", "ca": str(lab.ca_file)}
        return held(system, spec, lab.first_crowds)

    return run


def _refusals(system: System, count: int, *, sources: int, first: int = 0) -> Sample:
    spec = {"kind": "refusals", "count": count, "parallel": 50, "sources": sources, "first": first}
    return generated(system, spec)


def _flood(lab: Lab, system: System, count: int) -> Sample:
    """Refuse clients that each worker knows."""
    sources = min(LISTED_COUNT, count)
    _refusals(system, KNOWN_AFTER * sources, sources=sources)
    return _refusals(system, count, sources=sources)


def _mail_in_flood(*, known: bool) -> RUN:
    def run(lab: Lab, system: System, count: int) -> Sample:
        sources = min(LISTED_COUNT, count)
        first = 0 if known else lab.strangers(sources)
        if known:
            _refusals(system, KNOWN_AFTER * sources, sources=sources)
        spec = {"kind": "mail-in-flood", "count": count, "per_s": 1000, "sources": sources, "first": first}
        return generated(system, spec)

    return run


def _extra_ratio(sample: Sample, figure: str, other: str) -> float:
    return sample.extra[figure] / sample.extra[other]


_PROXIES = ("mailfront-imap", "nginx-imap", "dovecot-imap", "haproxy-imap")
_WORK: dict[str, object] = {"kind": "one-by-one", "text": 30_000, "archive": 40_000_000}
_IN_FLOOD = ("refused_count", "before_p50_ms", "before_p99_ms", "during_p50_ms", "during_p99_ms")
_ALL = ("mailfront", "postfix-queued", "postfix-proxy", "haproxy", "straight")

ROWS: tuple[Row, ...] = (
    Row(
        name="new-4k",
        title="4 KB, a new connection for each message",
        systems=_ALL,
        count=2000,
        run=_source(4_000),
        targets=(
            _rate_at_least("6x Postfix queued", 6.0, "mailfront", "postfix-queued"),
            _rate_at_least("2x before-queue", 2.0, "mailfront", "postfix-proxy"),
        ),
    ),
    Row(
        name="new-30k",
        title="30 KB, a new connection for each message",
        systems=_ALL,
        count=2000,
        run=_source(30_000),
        targets=(
            _rate_at_least("6x Postfix queued", 6.0, "mailfront", "postfix-queued"),
            _rate_at_least("2x before-queue", 2.0, "mailfront", "postfix-proxy"),
            _cpu_at_most("mailfront", 0.45),
        ),
    ),
    Row(
        name="new-200k",
        title="200 KB, a new connection for each message",
        systems=_ALL,
        count=800,
        run=_source(200_000),
        targets=(_rate_at_least("0.8 of straight", 0.8, "mailfront", "straight"),),
    ),
    Row(
        name="kept-4k",
        title="4 KB, 20 kept connections",
        systems=_ALL,
        count=4000,
        run=_source(4_000, "-N", "-d"),
        targets=(_rate_at_least("0.6 of straight", 0.6, "mailfront", "straight"),),
    ),
    Row(
        name="fan-out",
        title="30 KB for 10 recipients on 3 nodes",
        systems=("mailfront", "postfix-queued"),
        count=500,
        run=_source(30_000, "-N", "-r", "10"),
        targets=(_rate_at_least("6x Postfix queued", 6.0, "mailfront", "postfix-queued"),),
    ),
    Row(
        name="starttls",
        title="4 KB, STARTTLS with resumption",
        systems=("mailfront", "postfix-proxy"),
        count=600,
        run=_secure,
        targets=(
            Target(text="CPU 1.6x before-queue", bound=1.6, at_least=False, value=cpu_of("mailfront", "postfix-proxy")),
        ),
        shows=("resumed_count",),
    ),
    Row(
        name="queue",
        title="30 KB, all nodes down: into the queue",
        systems=("mailfront-nodes-down", "postfix-nodes-down"),
        count=1500,
        run=_into_the_queue,
        targets=(_rate_at_least("4x Postfix's accept rate", 4.0, "mailfront-nodes-down", "postfix-nodes-down"),),
    ),
    Row(
        name="queue-slow",
        title="30 KB, all nodes down: into the queue on a disk whose fsync takes 5 ms",
        systems=("mailfront-slow-disk", "postfix-slow-disk"),
        count=600,
        run=_into_the_queue,
        targets=(_rate_at_least("4x Postfix's accept rate", 4.0, "mailfront-slow-disk", "postfix-slow-disk"),),
    ),
    Row(
        name="drain",
        title="the nodes are back: the queue runs empty",
        systems=("mailfront-nodes-down", "postfix-nodes-down"),
        count=1500,
        run=_drain,
        targets=(_rate_at_least("2x Postfix's", 2.0, "mailfront-nodes-down", "postfix-nodes-down"),),
        shows=("began_after_s",),
    ),
    Row(
        name="chain",
        title="30 KB through 0 and 5 filters that have no objection",
        systems=("mailfront", "mailfront-5-filters"),
        count=1500,
        run=_source(30_000),
    ),
    Row(
        name="chain-cost",
        title="the chain itself, without a server: 0, 1, 3 and 5 filters that have no objection",
        systems=tuple(f"chain-{length}" for length in CHAIN_LENGTHS),
        count=20_000,
        run=lambda lab, system, count: chain_cost(int(system.name.removeprefix("chain-")), count),
        targets=(
            Target(
                text="30 us with 5", bound=30.0, at_least=False, value=lambda found: found["chain-5"].extra["each_us"]
            ),
        ),
        shows=("each_us",),
    ),
    Row(
        name="scanners",
        title="text and a zip file that unpacks to 40 MB, one at a time, through rspamd and clamd: how long it waits",
        systems=("mailfront", "mailfront-rspamd", "mailfront-clamd", "mailfront-both"),
        count=100,
        run=lambda lab, system, count: generated(system, _WORK | {"count": count}),
        targets=(
            Target(
                text="both 1.2x the slower",
                bound=1.2,
                at_least=False,
                value=lambda found: (
                    found["mailfront-both"].extra["median_ms"]
                    / max(found[f"mailfront-{name}"].extra["median_ms"] for name in ("rspamd", "clamd"))
                ),
            ),
        ),
        shows=("median_ms",),
    ),
    Row(
        name="flood",
        title="a flood from 1,000 listed clients, each remembered",
        systems=("mailfront-dnsbl",),
        count=10_000,
        run=_flood,
        unit="connections",
        targets=(_cpu_at_most("mailfront-dnsbl", 0.25),),
    ),
    Row(
        name="flood-new",
        title="a flood of listed clients that nobody has seen before: DNS is asked for each",
        systems=("mailfront-dnsbl",),
        count=2500,
        run=lambda lab, system, count: _refusals(system, count, sources=count, first=lab.strangers(count)),
        unit="connections",
    ),
    Row(
        name="flood-mail",
        title="good mail, 100 a second, before and during a flood of 1,000 listed connections a second",
        systems=("mailfront-dnsbl",),
        count=10_000,
        run=_mail_in_flood(known=True),
        targets=(
            Target(
                text="p99 of good mail 2x",
                bound=2.0,
                at_least=False,
                value=lambda found: _extra_ratio(found["mailfront-dnsbl"], "during_p99_ms", "before_p99_ms"),
            ),
        ),
        shows=_IN_FLOOD,
    ),
    Row(
        name="flood-mail-new",
        title="good mail, 100 a second, in a flood of 1,000 listed clients that nobody has seen before",
        systems=("mailfront-dnsbl",),
        count=5000,
        run=_mail_in_flood(known=False),
        shows=_IN_FLOOD,
    ),
    Row(
        name="login",
        title="IMAP login and logout",
        systems=("mailfront-node-auth-imap", *_PROXIES),
        count=1500,
        run=_generated("logins"),
        unit="logins",
        targets=(_cpu_at_most("mailfront-node-auth-imap", 0.40), _cpu_at_most("mailfront-imap", 0.40)),
        shows=("p99_s",),
    ),
    Row(
        name="login-ldap",
        title="IMAP login and logout, each a bind at LDAP",
        systems=("mailfront-ldap-imap", "dovecot-ldap-imap"),
        count=1000,
        run=_generated("logins"),
        unit="logins",
        shows=("p99_s",),
    ),
    Row(
        name="idle",
        title="idle IMAP sessions",
        systems=_PROXIES,
        count=5000,
        run=_idle(secure=False),
        unit="sessions",
        targets=(
            Target(
                text="14 KB each",
                bound=14.0,
                at_least=False,
                value=lambda found: found["mailfront-imap"].extra["each_kib"] * 1.024,
            ),
        ),
        shows=("memory_mib", "each_kib"),
    ),
    Row(
        name="idle-tls",
        title="idle IMAP sessions over TLS",
        systems=_PROXIES[:3],
        count=5000,
        run=_idle(secure=True),
        unit="sessions",
        shows=("memory_mib", "each_kib"),
    ),
    Row(
        name="relay",
        title="one IMAP session reads messages of 1 MiB",
        systems=_PROXIES,
        count=100,
        run=_generated("download"),
        unit="MiB",
        targets=(_rate_at_least("0.7 of nginx's rate", 0.7, "mailfront-imap", "nginx-imap"),),
    ),
)


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows of these names, all if there are none. Raises KeyError for a name that is no row."""
    known = {row.name: row for row in ROWS}
    wanted = set(names)
    if unknown := wanted - known.keys():
        raise KeyError(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    # A drain needs the queue that the row before it fills.
    if "drain" in wanted:
        wanted.add("queue")
    return [row for row in ROWS if not wanted or row.name in wanted]


def fsyncs_per_s(directory: str) -> float:
    """How many times a second this device makes one small write durable: what bounds a queue without group commit."""
    script = (
        "import os, sys, time\n"
        "fd = os.open(sys.argv[1] + '/fsync-probe', os.O_CREAT | os.O_WRONLY)\n"
        "begun, count = time.monotonic(), 0\n"
        "while time.monotonic() < begun + 1.0:\n"
        "    os.pwrite(fd, b'x' * 4096, 4096 * (count % 256)); os.fsync(fd); count += 1\n"
        "print(count / (time.monotonic() - begun))\n"
        "os.unlink(sys.argv[1] + '/fsync-probe')"
    )
    done = subprocess.run(["python3", "-c", script, directory], capture_output=True, text=True, check=True, timeout=30)
    return float(done.stdout)
