"""From one address to everybody whom its mail reaches: the rules, without I/O.

    expansion = Expansion(hop_of, most=5000)
    expansion.begin(found)
    while questions := expansion.take():
        for question in questions:
            expansion.answer(question, found_or_no_such)
    expansion.boxes, expansion.aways

Rules. An entry is expanded once. One that is met again below itself ends the circle there: its mailbox gets the mail,
if it has one; so a forward to the own address keeps a copy. Circles that hide behind entries which were expanded
elsewhere are seen at the end, when nobody at all would get the mail: the first mailbox that forwards gets it then. Who
is suspended is left out, and so is a name that does not exist, which is noted. A list's owner takes the sender's place
for everybody below it, an inner owner before an outer one. Who may post is asked of the group that the mail was sent
or forwarded to, not of groups that are members.

Ends for every graph: entries are finite, each is opened once, and nothing is asked once `is_over` is true.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from mailfront.directory.answers import ByDn, DirectoryRecord, Found, Group, Member, NoSuch, Status
from mailfront.directory.canonical import lookup_key
from mailfront.mail.address import Address
from mailfront.mail.names import NodeId

QUESTIONS_PER_LEAF = 10
"""Groups that share members ask for them again; groups that share everything with everything do not go on for ever."""


class Role(Enum):
    """Why somebody is asked for."""

    FORWARD = "forward"
    MEMBER = "member"
    OWNER = "owner"


@dataclass(slots=True)
class Owner:
    """A list's owner; `address` is None until it is known, and stays so if it cannot be."""

    address: Address | None


@dataclass(slots=True)
class Gate:
    """A group that asks who the sender is. `reached`: entries and addresses that its members came to."""

    address: Address
    group: Group
    owner: Owner | None
    reached: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Context:
    """Where on the way from the first address something is. `entry` is what was opened here."""

    parent: "Context | None"
    entry: str
    detail: str
    via: str
    owner: Owner | None
    gates: tuple[Gate, ...]

    def opened(self, entry: str) -> "Context | None":
        """The place above where an entry was opened, if it was."""
        here: Context | None = self
        while here is not None and here.entry != entry:
            here = here.parent
        return here


@dataclass(frozen=True, slots=True)
class Question:
    """Who is `name`? For the expansion of what `context` opened."""

    name: Member
    role: Role
    context: Context


@dataclass(frozen=True, slots=True)
class Box:
    """A mailbox that gets the mail. `detail` is what stood behind the `+`."""

    record: DirectoryRecord
    detail: str
    via: str
    owner: Owner | None


@dataclass(frozen=True, slots=True)
class Away:
    """An address that a next hop takes."""

    address: Address
    hop: NodeId
    via: str
    owner: Owner | None


class Met(Enum):
    """What something on the way is, in a word for people."""

    MAILBOX = "mailbox"
    FORWARD = "forward"
    LIST = "list"
    AWAY = "elsewhere"
    SUSPENDED = "suspended"
    UNKNOWN = "does not exist"
    CIRCLE = "circle"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was met below what `context` opened. `opens`: where it goes on from here; None: it ends here, or
    was opened before. `detail`: the mailbox key, the next hop or the owner."""

    context: Context
    met: Met
    name: str
    detail: str = ""
    opens: Context | None = None


HopOf = Callable[[Address], NodeId | None]
"""The next hop that takes an address; None: the directory knows it."""

_TOP = Context(None, "", "", "", None, ())


class Expansion:
    """See the module. One per RCPT; owned by whoever asks."""

    def __init__(self, hop_of: HopOf, *, most: int, steps: list[Step] | None = None) -> None:
        """`steps`: where every step is noted, for who wants to see the way."""
        self._hop_of = hop_of
        self._steps = steps
        self._most = most
        self._boxes: dict[tuple[str, str], Box] = {}
        self._aways: dict[tuple[NodeId, str], Away] = {}
        self._opened: set[str] = set()
        self._questions: list[Question] = []
        self._asked_count = 0
        self.gates: list[Gate] = []
        self.left_out: list[str] = []
        """What somebody must mend in the directory, in words: who does not get it, and why."""
        self.is_over = False
        """More than `most` leaves, or far more questions than that."""
        self.met_circle = False
        self.met_suspended = False
        self._first_forwarder: Box | None = None

    @property
    def boxes(self) -> list[Box]:
        """The mailboxes, each once, in the order in which they were found."""
        return list(self._boxes.values())

    @property
    def aways(self) -> list[Away]:
        """The addresses for next hops, each once."""
        return list(self._aways.values())

    def begin(self, found: Found) -> None:
        """Start at the entry of the address that the mail was sent to."""
        self._visit(found, _TOP, Role.FORWARD)

    def take(self) -> list[Question]:
        """What must be known next; empty at the end. Each question is to be answered before the next `take`."""
        questions, self._questions = self._questions, []
        if not questions:
            self._end_hidden_circle()
        return [] if self.is_over else questions

    def _end_hidden_circle(self) -> None:
        """Who forwards and leads to nobody, though no name was left out, leads into a circle."""
        forwarder = self._first_forwarder
        if forwarder is None or self._boxes or self._aways or self.left_out or self.met_suspended:
            return
        self.met_circle = True
        self._boxes[forwarder.record.key, forwarder.detail] = forwarder

    def answer(self, question: Question, answer: Found | NoSuch) -> None:
        """Go on with an answer. "Cannot say" is none: the caller gives up then, all of it."""
        if question.role is Role.OWNER:
            self._owner_found(question, answer)
        elif isinstance(answer, Found):
            self._visit(answer, question.context, question.role)
        else:
            whose = question.context.via or "a group"
            self.left_out.append(f"{whose} names {_shown(question.name)}, which does not exist")
            self._note(question.context, Met.UNKNOWN, _shown(question.name))

    def _owner_found(self, question: Question, answer: Found | NoSuch) -> None:
        owner = question.context.owner
        assert owner is not None
        if isinstance(answer, Found) and answer.record.address.domain:
            owner.address = answer.record.address
        else:
            self.left_out.append(f"the owner of {question.context.via} is {_shown(question.name)}, without an address")

    def _visit(self, found: Found, context: Context, role: Role) -> None:
        record = found.record
        entry = record.entry or record.key or lookup_key(record.address)
        for gate in context.gates:
            gate.reached.update((entry, lookup_key(record.address)))
        if record.status is Status.SUSPENDED:
            self.met_suspended = True
            self._note(context, Met.SUSPENDED, str(record.address))
        elif (opened := context.opened(entry)) is not None:
            self.met_circle = True
            self._note(context, Met.CIRCLE, str(record.address), "its own mailbox gets it" if record.mailbox else "")
            if record.mailbox:
                assert opened.parent is not None
                self._add_box(record, opened.detail, opened.parent, is_noted=True)
        elif record.group is not None:
            self._open_group(record, record.group, entry, context, role)
        elif record.forwards:
            below = self._below(record, entry, found.detail, context)
            if record.mailbox and self._first_forwarder is None:
                self._first_forwarder = Box(record, found.detail, context.via, context.owner)
            self._note(context, Met.FORWARD, str(record.address), opens=below)
            if record.keeps_copy:
                self._note(below, Met.MAILBOX, str(record.address), record.key)
                self._add_box(record, found.detail, context, is_noted=True)
            self._open(record.forwards, Role.FORWARD, below)
        else:
            self._add_box(record, found.detail, context)

    def _open_group(self, record: DirectoryRecord, group: Group, entry: str, context: Context, role: Role) -> None:
        if len(group.members) > self._most:
            self.is_over = True
            return
        owner, asked_for = context.owner, None
        if isinstance(group.owner, ByDn):
            owner = Owner(None)
            asked_for = group.owner
        elif group.owner is not None:
            owner = Owner(group.owner)
        gates = context.gates
        if role is Role.FORWARD and not group.posters.is_everybody:
            gate = Gate(record.address, group, owner if group.owner is not None else None)
            self.gates.append(gate)
            gates = (*gates, gate)
        below = self._below(record, entry, "", context, owner=owner, gates=gates)
        name = str(record.address) if record.address.domain else entry
        self._note(context, Met.LIST, name, _shown(group.owner) if group.owner is not None else "", opens=below)
        if asked_for is not None:
            self._ask(asked_for, Role.OWNER, below)
        self._open(group.members, Role.MEMBER, below)

    def _below(
        self,
        record: DirectoryRecord,
        entry: str,
        detail: str,
        context: Context,
        *,
        owner: Owner | None = None,
        gates: tuple[Gate, ...] | None = None,
    ) -> Context:
        via = str(record.address) if record.address.domain else context.via
        return Context(context, entry, detail, via, owner or context.owner, context.gates if gates is None else gates)

    def _open(self, names: tuple[Member, ...], role: Role, below: Context) -> None:
        if below.entry in self._opened:
            return
        self._opened.add(below.entry)
        for name in names:
            hop = self._hop_of(name) if isinstance(name, Address) else None
            if hop is None:
                self._ask(name, role, below)
                continue
            assert isinstance(name, Address)
            for gate in below.gates:
                gate.reached.add(lookup_key(name))
            self._note(below, Met.AWAY, str(name), hop)
            self._aways.setdefault((hop, name.key), Away(name, hop, below.via, below.owner))
        self._count()

    def _ask(self, name: Member, role: Role, context: Context) -> None:
        self._questions.append(Question(name, role, context))
        self._asked_count += 1

    def _add_box(self, record: DirectoryRecord, detail: str, context: Context, *, is_noted: bool = False) -> None:
        if not is_noted:
            self._note(context, Met.MAILBOX, str(record.address), record.key)
        self._boxes.setdefault((record.key, detail), Box(record, detail, context.via, context.owner))
        self._count()

    def _note(self, context: Context, met: Met, name: str, detail: str = "", *, opens: Context | None = None) -> None:
        if self._steps is not None:
            is_new = opens is not None and opens.entry not in self._opened
            self._steps.append(Step(context, met, name, detail, opens if is_new else None))

    def _count(self) -> None:
        leaves_count = len(self._boxes) + len(self._aways)
        if leaves_count > self._most or self._asked_count > QUESTIONS_PER_LEAF * self._most:
            self.is_over = True


def _shown(name: Member) -> str:
    if isinstance(name, Address):
        return str(name)
    return name.dn if isinstance(name, ByDn) else f"uid {name.uid}"
