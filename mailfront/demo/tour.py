"""The demo's story, told and checked: messages of several kinds, a node that dies, a node that comes back.

Each claim is checked before it is printed: what the sender was told, where the message is, and that it is there byte
for byte and nowhere else. The first claim that is false ends the tour with ClaimFailed.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mailfront.demo import post
from mailfront.demo.children import HOST
from mailfront.demo.cluster import Cluster
from mailfront.demo.maildir import stored_messages
from mailfront.demo.people import DOMAIN, HANDOFF, person
from mailfront.demo.screen import Screen

NOTICE_WITHIN_S = 60.0
HOME_AGAIN_WITHIN_S = 90.0
_LOOK_EVERY_S = 0.1
_ID = re.compile(rb"^Mailfront-Id: (\w+)\r\n", re.MULTILINE)


class ClaimFailed(Exception):
    """Something that the demo claims is not so. The text says what."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A message that was acknowledged: its bytes, and the node where each of its mailboxes must have it."""

    message_id: str
    content: bytes
    homes: dict[str, str]


class Tour:
    """One tour of a running cluster. `run` once."""

    def __init__(self, cluster: Cluster, screen: Screen) -> None:
        self._cluster = cluster
        self._screen = screen
        self._expected: list[Expected] = []
        self.waited_id = ""
        """The message that waited for a node to come back."""

    def run(self) -> None:
        """Tell it all. Raises ClaimFailed, and whatever breaks a dialogue with a server."""
        first = f"ana@{DOMAIN}"
        elsewhere = self._one_per_node(other_than=self._cluster.home_of(first))
        self._plain(first)
        self._attachment(elsewhere[0])
        self._several([first, *elsewhere])
        self._alias(f"rector@{DOMAIN}")
        self._unknown(f"nobody@{DOMAIN}")
        home, holder = self._outage(first, elsewhere[0])
        self._return(first, home, holder)
        self._logins([first, *elsewhere])
        self._accounts()

    # Messages on a good day

    def _plain(self, to: str) -> None:
        self._screen.step(f"A plain message to {to}")
        self._send_and_follow([to], post.plain(to, "A plain message"))

    def _attachment(self, to: str) -> None:
        self._screen.step(f"A message with an attachment to {to}")
        content = post.with_attachment(to, "The report")
        self._screen.row("size", f"{len(content):,} bytes, MIME, three parts")
        self._send_and_follow([to], content)

    def _several(self, to: list[str]) -> None:
        self._screen.step("One message to people on three nodes")
        self._send_and_follow(to, post.short(to, "To all of you"))

    def _alias(self, alias: str) -> None:
        owner = person(alias)
        self._screen.step(f"A message to the alias {alias}")
        self._screen.row("owner", f"{owner.address}, says the directory")
        self._send_and_follow([alias], post.short([alias], "To the rector"))
        self._claim(
            self._cluster.home_of(alias) == self._cluster.home_of(owner.address),
            f"{alias} and {owner.address} are one mailbox at one node",
        )

    def _unknown(self, to: str) -> None:
        self._screen.step(f"A message to {to}, whom nobody knows")
        sent = post.send(self._cluster.smtp, [to], post.short([to], "Hello?"))
        answer = sent.recipients[to]
        self._screen.row("answer", f"{answer}")
        self._claim(
            answer.code == 550 and answer.text.startswith("5.1.1") and sent.message is None,
            "it is refused while the sender waits (550 5.1.1): nothing was accepted, nothing can bounce",
        )

    def _send_and_follow(self, to: Sequence[str], content: bytes) -> None:
        """Send, say where it went and why, and check all of it."""
        sent = post.send(self._cluster.smtp, to, content)
        message_id = self._must_be_accepted(sent, f"the message to {', '.join(to)} is accepted")
        self._screen.row("answer", str(sent.message))
        homes = {}
        for address in to:
            found = self._explain(address)
            homes[person(address).name] = found["home"]
            self._screen.row("went to", f"{found['home']}: {found['reason']}; the mailbox is {found['node_user']}")
        self._expected.append(Expected(message_id, content, homes))
        for user, home in homes.items():
            self._is_at_home(self._expected[-1], user, home)
        self._screen.checked(
            f"{_and(sorted(set(homes.values())))} gave it back over IMAP byte for byte ({len(content):,} bytes); "
            "no other mailbox of any node has it"
        )

    # A node dies, and comes back

    def _outage(self, to: str, other: str) -> tuple[str, str]:
        """Kill the home of `to`, send, and follow the copy. Returns the dead node and the one that stands in."""
        home, other_home = self._cluster.home_of(to), self._cluster.home_of(other)
        self._screen.step(f"{home} dies")
        self._cluster.kill(home)
        self._screen.row("killed", f"{home}, with SIGKILL. It is the home of {to}, not of {other}.")
        content = post.short([to, other], "Is anybody there?")
        began_s = time.monotonic()
        sent = post.send(self._cluster.smtp, [to, other], content)
        took_s = time.monotonic() - began_s
        self.waited_id = self._must_be_accepted(sent, f"a message to both is accepted while {home} is dead")
        self._screen.row("answer", f"{sent.message}   (after {took_s * 1000:.0f} ms)")
        expected = Expected(self.waited_id, content, {person(to).name: home, person(other).name: other_home})
        self._expected.append(expected)
        self._is_at(expected, person(other).name, other_home)
        self._screen.checked(f"{other} has it already: {other_home} was never away")
        self._until(
            lambda: self._explain(to)["now"] == "handoff", NOTICE_WITHIN_S, f"mailfront sees that {home} is away"
        )
        found = self._explain(to)
        holder: str = found["now_at"]
        self._screen.row(
            "instead",
            f"{found['now_reason']} (next after {home} for bucket {found['bucket']}: {found['secondaries'][0]})",
        )
        copies = self._read(holder, HANDOFF, self.waited_id)
        self._claim(
            len(copies) == 1 and copies[0].endswith(content) and b"Mailfront-Handoff:" in copies[0],
            f"the copy for {to} waits in the handoff mailbox of {holder}, behind a signed block; no user can open it",
        )
        self._claim(self._waiting() == {home: 1}, f"mailfront remembers that one mailbox's mail must go to {home}")
        return home, holder

    def _return(self, to: str, home: str, holder: str) -> None:
        """Start the dead node again and see the message for `to` come home."""
        self._screen.step(f"{home} comes back")
        expected, user = self._expected[-1], person(to).name
        began_s = time.monotonic()
        self._cluster.bring_back(home)
        self._screen.row("started", f"{home}, with the disk that it had")
        self._until(
            lambda: bool(self._read(home, user, expected.message_id)), HOME_AGAIN_WITHIN_S, f"the mail comes to {home}"
        )
        took_s = time.monotonic() - began_s
        self._until(
            lambda: not self._read(holder, HANDOFF, expected.message_id),
            HOME_AGAIN_WITHIN_S,
            f"{holder} lets go of its copy",
        )
        self._is_at_home(expected, user, home)
        self._screen.checked(
            f"the message came home {took_s:.1f} s after the start, byte for byte, once; its block is gone"
        )
        self._until(lambda: not self._waiting(), HOME_AGAIN_WITHIN_S, "nothing is remembered as waiting any more")
        self._screen.checked(f"{holder} holds nothing for {home} any more")
        self._until(lambda: self._explain(to)["now"] == "deliver", NOTICE_WITHIN_S, f"{home} takes its own mail again")
        self._screen.checked(f"{home} takes its own mail again")

    # Reading

    def _logins(self, people: Sequence[str]) -> None:
        """Log in by IMAP at the front end as one person per node, and find each at home."""
        self._screen.step("People read their mail: one IMAP address for all nodes")
        for address in people:
            user, home = person(address).name, self._cluster.home_of(address)
            wanted_count = sum(sent.homes.get(user) == home for sent in self._expected)
            with post.logged_in(self._cluster.imap, user, self._cluster.passwords[user]) as client:
                _, (count,) = client.select("INBOX", readonly=True)
                self._is_listed(user, home)
            self._claim(
                int(count or 0) == wanted_count,
                f"{user} logs in at {HOST}:{self._cluster.imap} and is at {home}, with {wanted_count} messages",
                f"{count!r} messages",
            )

    def _accounts(self) -> None:
        self._screen.step("The accounts")
        stats = self._cluster.cli_json("queue", "stats")
        self._claim(stats["total"] == 0, "the queue is empty: mailfront queue stats says 0", f"it says {stats}")
        want = Counter((sent.message_id, node, user) for sent in self._expected for user, node in sent.homes.items())
        have = Counter(self._on_the_disks())
        count = want.total()
        self._claim(
            have == want,
            f"{len(self._expected)} messages were acknowledged for {count} mailboxes; the disks of all nodes hold "
            f"exactly these {count} copies",
            f"missing {list((want - have).elements())}, too many {list((have - want).elements())}",
        )

    # Looking

    def _explain(self, address: str) -> dict[str, Any]:
        """`mailfront ring explain ADDRESS --json`."""
        found: dict[str, Any] = self._cluster.cli_json("ring", "explain", address)
        return found

    def _one_per_node(self, *, other_than: str) -> list[str]:
        """For each of the other nodes, the address of somebody who lives there."""
        found: dict[str, str] = {}
        for user in self._cluster.passwords:
            if user != HANDOFF:
                address = f"{user}@{DOMAIN}"
                found.setdefault(self._cluster.home_of(address), address)
        found.pop(other_than)
        self._claim_quietly(len(found) == len(self._cluster.nodes) - 1, "somebody lives on every node", str(found))
        return [found[node] for node in sorted(found)]

    def _read(self, node: str, user: str, message_id: str) -> list[bytes]:
        return post.read_back(self._cluster.nodes[node].imap, user, self._cluster.passwords[user], message_id)

    def _is_listed(self, user: str, home: str) -> None:
        """The front end knows of one session of this user, at home, as `mailfront session list` would say."""

        def nodes() -> list[str]:
            return [row["node"] for row in self._cluster.ask("session.list", users=[user], limit=10)["rows"]]

        self._until(lambda: nodes() == [home], NOTICE_WITHIN_S, f"the front end knows of a session of {user} at {home}")

    def _waiting(self) -> dict[str, int]:
        """How many mailboxes' mail waits elsewhere for each node, as `mailfront node list` says."""
        rows = self._cluster.cli_json("node", "list")
        held_count = sum(row["held_for_others_count"] for row in rows)
        waiting = {row["id"]: row["waiting_for_it_count"] for row in rows if row["waiting_for_it_count"]}
        self._claim_quietly(held_count == sum(waiting.values()), "node list counts what waits as often as what is held")
        return waiting

    def _is_at(self, expected: Expected, user: str, node: str) -> None:
        copies = self._read(node, user, expected.message_id)
        self._claim_quietly(
            len(copies) == 1, f"{user} has {expected.message_id} once at {node}", f"{len(copies)} times"
        )
        self._claim_quietly(
            post.is_as_sent(copies[0], expected.content),
            f"{expected.message_id} is at {node} as it was sent",
            f"it begins with {copies[0][:200]!r}",
        )

    def _is_at_home(self, expected: Expected, user: str, home: str) -> None:
        """In this mailbox at home, once and as sent, and in no mailbox of any node that it is not meant for."""
        self._is_at(expected, user, home)
        places = [
            (node, owner) for message_id, node, owner in self._on_the_disks() if message_id == expected.message_id
        ]
        wanted = [(node, owner) for owner, node in expected.homes.items()]
        self._claim_quietly(
            sorted(places) == sorted(wanted), f"{expected.message_id} is where it belongs only", f"it is at {places}"
        )

    def _on_the_disks(self) -> list[tuple[str, str, str]]:
        """Every copy in every mailbox of every node: message id, node, user. The handoff mailboxes included."""
        found = []
        for node in self._cluster.nodes.values():
            for user, data in stored_messages(node.mail):
                message_id = _ID.search(data)
                found.append((message_id[1].decode() if message_id else "no id", node.id, user))
        return found

    # Claiming

    def _must_be_accepted(self, sent: post.Sent, claim: str) -> str:
        refused = [f"{to}: {answer}" for to, answer in sent.recipients.items() if answer.code != 250]
        if refused or sent.message is None or not sent.message.message_id:
            _fail(claim, "; ".join(refused) or str(sent.message))
        return sent.message.message_id

    def _claim(self, holds: bool, claim: str, instead: str = "") -> None:
        """Print a claim if it holds."""
        self._claim_quietly(holds, claim, instead)
        self._screen.checked(claim)

    def _claim_quietly(self, holds: bool, claim: str, instead: str = "") -> None:
        if not holds:
            _fail(claim, instead)

    def _until(self, holds: Callable[[], bool], within_s: float, claim: str) -> None:
        """Wait for something to become true."""
        end_s = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > end_s:
                _fail(claim, f"not within {within_s:.0f} s")
            time.sleep(_LOOK_EVERY_S)


def _fail(claim: str, instead: str) -> NoReturn:
    raise ClaimFailed(f"{claim}: this is not so{f' ({instead})' if instead else ''}")


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
