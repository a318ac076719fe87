"""Any graph of forwards and lists: the expansion ends, and nobody who should get the mail is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from mailfront.directory.answers import ByDn, DirectoryRecord, Found, Group, Member, NoSuch, Source
from mailfront.intake.expansion import QUESTIONS_PER_LEAF, Expansion
from mailfront.mail.address import Address
from mailfront.mail.names import MailboxKey, NodeId
from mailfront.mail.next_hop import RELAY

NAMES = [f"n{number}" for number in range(7)]
OUTSIDE = ["x", "y"]


def _address(name: str) -> Address:
    return Address(name, "out.example" if name in OUTSIDE else "example.edu")


@st.composite
def _entry(draw: st.DrawFn, name: str) -> DirectoryRecord:
    kind = draw(st.sampled_from(["mailbox", "forward", "copy", "alias", "group"]))
    targets = draw(st.lists(st.sampled_from([*NAMES, *OUTSIDE, "gone"]), min_size=1, max_size=4))
    members: list[Member] = [
        ByDn(f"uid={target}") if target in NAMES and draw(st.booleans()) else _address(target) for target in targets
    ]
    has_mailbox = kind in ("mailbox", "forward", "copy")
    return DirectoryRecord(
        key=MailboxKey(name if has_mailbox else ""),
        mailbox=name if has_mailbox else "",
        address=_address(name),
        forwards=tuple(map(_address, targets)) if kind in ("forward", "copy", "alias") else (),
        keeps_copy=kind == "copy",
        group=Group(members=tuple(members)) if kind == "group" else None,
        entry=f"uid={name}",
    )


graphs = st.tuples(*(_entry(name) for name in NAMES)).map(lambda made: dict(zip(NAMES, made, strict=True)))


def _hop_of(address: Address) -> NodeId | None:
    return RELAY if address.domain == "out.example" else None


def _name(member: Member) -> str:
    if isinstance(member, Address):
        return member.local
    assert isinstance(member, ByDn)
    return member.dn.removeprefix("uid=")


def _next(record: DirectoryRecord) -> list[str]:
    return [_name(member) for member in (record.group.members if record.group else record.forwards)]


def _reachable(graph: dict[str, DirectoryRecord], start: str) -> set[str]:
    seen, left = {start}, [start]
    while left:
        name = left.pop()
        for following in _next(graph[name]) if name in graph else ():
            if following not in seen:
                seen.add(following)
                left.append(following)
    return seen


def _expand(graph: dict[str, DirectoryRecord], start: str, most: int) -> tuple[Expansion, int]:
    expansion, asked_count = Expansion(_hop_of, most=most), 0
    expansion.begin(Found(graph[start], Source.LDAP))
    while questions := expansion.take():
        for question in questions:
            asked_count += 1
            record = graph.get(_name(question.name))
            expansion.answer(question, NoSuch(Source.LDAP) if record is None else Found(record, Source.LDAP))
    return expansion, asked_count


@given(graphs, st.sampled_from(NAMES))
def test_it_ends_and_nobody_is_lost(graph: dict[str, DirectoryRecord], start: str) -> None:
    """Everybody reachable who keeps mail, or whose mail leaves, is among the leaves, once; nobody else is but the ends
    of circles; and where only circles are, one mailbox of theirs, or one that leads into them, has the mail if there is
    any."""
    expansion, _ = _expand(graph, start, most=1000)
    boxes = [box.record.mailbox for box in expansion.boxes]
    aways = [away.address.local for away in expansion.aways]
    assert len(set(boxes)) == len(boxes)
    assert len(set(aways)) == len(aways)
    reachable = _reachable(graph, start)
    assert set(aways) == reachable & set(OUTSIDE)
    keepers = {
        name
        for name in reachable & graph.keys()
        if graph[name].mailbox and (not graph[name].forwards or graph[name].keeps_copy)
    }
    assert keepers <= set(boxes) <= reachable
    if keepers or aways or len(boxes) > 1:
        for name in set(boxes) - keepers:
            assert any(name in _reachable(graph, following) for following in _next(graph[name]))
    forwarders = {name for name in reachable & graph.keys() if graph[name].mailbox}
    if forwarders and not expansion.left_out:
        assert boxes or aways


@given(graphs, st.sampled_from(NAMES), st.integers(1, 3))
def test_a_limit_is_never_passed_by_much(graph: dict[str, DirectoryRecord], start: str, most: int) -> None:
    """More leaves than allowed are noticed, and the number of questions is bounded whatever the graph."""
    expansion, asked_count = _expand(graph, start, most)
    assert expansion.is_over or len(expansion.boxes) + len(expansion.aways) <= most
    assert asked_count <= QUESTIONS_PER_LEAF * most + 2 * len(NAMES)


def test_a_circle_behind_entries_that_were_opened_elsewhere_ends_at_a_mailbox() -> None:
    """n0 sends to n1 and n2, who send to each other: nobody is met below himself, and still somebody gets the mail."""

    def forwarder(name: str, *to: str) -> DirectoryRecord:
        return DirectoryRecord(
            key=MailboxKey(name),
            mailbox=name,
            address=_address(name),
            forwards=tuple(map(_address, to)),
            entry=f"uid={name}",
        )

    graph = {"n0": forwarder("n0", "n1", "n2"), "n1": forwarder("n1", "n2"), "n2": forwarder("n2", "n1")}
    expansion, _ = _expand(graph, "n0", most=1000)
    assert [box.record.mailbox for box in expansion.boxes] == ["n0"]
    assert expansion.met_circle
