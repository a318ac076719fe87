"""The node state machine against a model that keeps the whole history instead of a state."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailfront.base.ids import MessageId
from mailfront.cluster.node_states import Health, Service
from mailfront.cluster.node_table import NodeStateTable, StateChange
from mailfront.mail.names import MailboxKey, NodeId

NODE = NodeId("node")
LMTP = Service.LMTP


class NodeStates(RuleBasedStateMachine):
    """One node, one service. The model answers from the list of all that happened."""

    @initialize()
    def start(self) -> None:
        self.now_s = 1000.0
        self.history: list[tuple[str, str, float]] = []
        self.changes: list[StateChange] = []
        self.table = NodeStateTable([NODE], self.changes.append)
        self.health = Health.UP
        self.fell_s = -1e9
        self.lifted_by_probe_s = -1e9
        self.relapses = 0

    def fall(self) -> None:
        if self.health is Health.UP:
            self.relapses = self.relapses + 1 if self.now_s - self.lifted_by_probe_s < 300 else 0
            self.health, self.fell_s = Health.SUSPECT, self.now_s
            self.down_s: float | None = None

    def recent(self, kind: str) -> set[str]:
        """What of a kind was seen within a minute and after the last thing that wiped the slate."""
        found: set[str] = set()
        for what, name, at_s in reversed(self.history):
            if what == "wiped" or self.now_s - at_s >= 60:
                break
            if what == kind:
                found.add(name)
        return found

    def witness(self, kind: str, name: str) -> None:
        self.history.append((kind, name, self.now_s))
        if self.health is Health.UP and len(self.recent(kind)) >= 3:
            self.fall()
            self.history.append(("wiped", "", self.now_s))

    @rule(seconds=st.one_of(st.floats(0.1, 20), st.floats(50, 400)))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def connect_fails(self) -> None:
        if self.health is Health.UP:
            self.history.append(("wiped", "", self.now_s))
        self.fall()
        self.table.connect_failed(NODE, LMTP, self.now_s, "refused")

    @rule(name=st.sampled_from("abcd"))
    def message_fails(self, name: str) -> None:
        self.witness("message", name)
        self.table.message_failed(NODE, MessageId(name), self.now_s, "451")

    @rule(name=st.sampled_from("abcd"))
    def mailbox_is_unknown(self, name: str) -> None:
        self.witness("mailbox", name)
        self.table.unknown_at_node(NODE, MailboxKey(name), self.now_s)

    @rule()
    def message_is_delivered(self) -> None:
        self.history.append(("wiped", "", self.now_s))
        if self.health is not Health.UP:
            self.relapses, self.lifted_by_probe_s = 0, -1e9
        self.health = Health.UP
        self.table.succeeded(NODE, LMTP, self.now_s)

    @rule()
    def probe_fails(self) -> None:
        if self.health is Health.UP:
            self.history.append(("wiped", "", self.now_s))
            self.fall()
        elif self.health is Health.SUSPECT:
            self.health, self.down_s = Health.DOWN, self.now_s
        self.table.probe_failed(NODE, LMTP, self.now_s, "timeout")

    @rule(took_s=st.floats(0, 30))
    def probe_succeeds(self, took_s: float) -> None:
        began_s = self.now_s - took_s
        hold_s = min(60.0, 5.0 * 2 ** (self.relapses - 1)) if self.relapses else 0.0
        known_s = self.down_s if self.health is Health.DOWN and self.down_s is not None else self.fell_s
        if self.health is not Health.UP and began_s >= known_s and self.now_s >= self.fell_s + hold_s:
            self.health, self.lifted_by_probe_s = Health.UP, self.now_s
            self.history.append(("wiped", "", self.now_s))
        self.table.probe_ok(NODE, LMTP, self.now_s, began_s)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.table.state(NODE, LMTP).health is self.health
        assert self.table.is_up(NODE, LMTP) is (self.health is Health.UP)

    @invariant()
    def changes_are_a_chain(self) -> None:
        if not hasattr(self, "table"):
            return
        before = Health.UP
        for change in self.changes:
            assert change.before is before
            assert change.after is not before
            before = change.after
        assert before is self.health

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "table"):
            assert len(self.table.state(NODE, LMTP).witnesses) <= 6


NodeStates.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestNodeStates = NodeStates.TestCase
