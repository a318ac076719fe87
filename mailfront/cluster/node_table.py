"""What this process knows of every storage node's health. The rules are in `node_states`.

In the keeper the table is the truth: the prober feeds it, and `as_push` goes to the workers. In a worker it also learns
from the worker's own traffic at once; `on_change` is where the worker tells the keeper (`suspected_by_worker`). A
SUSPECT that the keeper has not confirmed, or a silent keeper, lets one trial through every 5 s, so that a worker
alone finds a returned node. The keeper's own traffic asks `is_up` and never takes a trial: its prober is the trial.

Nothing is stored here; `registry` writes down what has to survive a restart.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mailfront.base.ids import MessageId
from mailfront.base.printable import printable
from mailfront.cluster import node_states
from mailfront.cluster.node_states import WELL, AdminState, Health, Service, ServiceState
from mailfront.mail.names import MailboxKey, NodeId

TRIAL_INTERVAL_S = 5.0
SILENT_KEEPER_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A service of a node is now thought of differently."""

    node: NodeId
    service: Service
    before: Health
    after: Health
    reason: str


class NodeStateTable:
    """What this process knows of every node. One owner per process; not for several threads.

    `on_change` is called after each change of health, with the table already changed; it must not raise.
    """

    def __init__(self, nodes: Iterable[NodeId], on_change: Callable[[StateChange], None] | None = None) -> None:
        self._states = {(node, service): WELL for node in nodes for service in Service}
        self._admin: dict[NodeId, AdminState] = {}
        self._trials_s: dict[tuple[NodeId, Service], float] = {}
        self._keeper_heard_s = -1e9
        self._on_change = on_change

    def watch(self, on_change: Callable[[StateChange], None]) -> None:
        """Have changes told to `on_change` from now on, and to nobody else."""
        self._on_change = on_change

    # What traffic asks.

    def state(self, node: NodeId, service: Service) -> ServiceState:
        """Everything known about one service of a node."""
        return self._states.get((node, service), WELL)

    def admin_state(self, node: NodeId) -> AdminState:
        """What the administrator says about a node."""
        return self._admin.get(node, AdminState.ACTIVE)

    def is_up(self, node: NodeId, service: Service) -> bool:
        """Whether a service can be expected to work: UP and not in maintenance."""
        state = self._states.get((node, service))
        return state is not None and state.health is Health.UP and self._admin.get(node) is not AdminState.MAINTENANCE

    def may_hold(self, node: NodeId) -> bool:
        """Whether a node may keep mail for another one: its LMTP and its handoff account work, and it is active."""
        return (
            self.is_up(node, Service.LMTP)
            and self.is_up(node, Service.HANDOFF)
            and self.admin_state(node) is AdminState.ACTIVE
        )

    def admit(self, node: NodeId, service: Service, now_s: float) -> bool:
        """Whether the caller may use a node now. For a node that is not up this may grant a trial: one every 5 s, if
        only this process suspects it or the keeper is silent. The caller of a trial must report how it went."""
        if self.is_up(node, service):
            return True
        key = (node, service)
        state = self._states.get(key)
        if state is None or self._admin.get(node) is AdminState.MAINTENANCE:
            return False
        if not state.local and now_s - self._keeper_heard_s < SILENT_KEEPER_S:
            return False
        if now_s - max(self._trials_s.get(key, -1e9), state.since_s) < TRIAL_INTERVAL_S:
            return False
        self._trials_s[key] = now_s
        return True

    # What traffic and the prober report.

    def connect_failed(self, node: NodeId, service: Service, now_s: float, text: str) -> None:
        """See `node_states.connect_failed`."""
        self._set(node, service, node_states.connect_failed(self.state(node, service), now_s, text))

    def message_failed(self, node: NodeId, message: MessageId, now_s: float, text: str) -> None:
        """A message failed on a connection that stood. See `node_states.failed_after_connect`."""
        state = self.state(node, Service.LMTP)
        self._set(node, Service.LMTP, node_states.failed_after_connect(state, now_s, message, text))

    def client_failed(self, node: NodeId, service: Service, client_ip: str, now_s: float, text: str) -> None:
        """One client's login failed by the node's fault. Three clients make it count: one may have broken it itself."""
        state = self.state(node, service)
        self._set(node, service, node_states.failed_after_connect(state, now_s, client_ip, text))

    def unknown_at_node(self, node: NodeId, key: MailboxKey, now_s: float) -> None:
        """See `node_states.unknown_at_node`."""
        self._set(node, Service.LMTP, node_states.unknown_at_node(self.state(node, Service.LMTP), now_s, key))

    def succeeded(self, node: NodeId, service: Service, now_s: float) -> None:
        """See `node_states.succeeded`. Costs one look-up when all is well."""
        state = self._states.get((node, service))
        if state is not None and (state.health is not Health.UP or state.witnesses):
            self._set(node, service, node_states.succeeded(state, now_s))

    def probe_ok(self, node: NodeId, service: Service, now_s: float, began_s: float) -> None:
        """See `node_states.probe_ok`."""
        self._set(node, service, node_states.probe_ok(self.state(node, service), now_s, began_s))

    def probe_failed(self, node: NodeId, service: Service, now_s: float, text: str) -> None:
        """See `node_states.probe_failed`."""
        self._set(node, service, node_states.probe_failed(self.state(node, service), now_s, printable(text, 200)))

    def suspected_by_worker(self, node: NodeId, service: Service, now_s: float, text: str) -> None:
        """Keeper: a worker told that its own table changed to SUSPECT. The prober should look at once."""
        self._set(node, service, node_states.suspect(self.state(node, service), now_s, text))

    # What the administrator, the configuration and the store say.

    def restore(self, node: NodeId, service: Service, state: ServiceState) -> None:
        """Keeper, at its start: take up a stored state. Tells nobody."""
        if (node, service) in self._states:
            self._states[node, service] = state

    def set_admin_state(self, node: NodeId, admin: AdminState) -> None:
        """Take over the administrator's word. Storing it is the registry's."""
        if (node, Service.LMTP) in self._states:
            self._admin[node] = admin

    def set_nodes(self, nodes: Iterable[NodeId]) -> None:
        """Follow a reload: forget nodes that are gone, know new ones as well."""
        before = self._states
        self._states = {
            key: before.get(key, WELL) for key in ((node, service) for node in nodes for service in Service)
        }
        self._trials_s = {key: at_s for key, at_s in self._trials_s.items() if key in self._states}
        known = {node for node, _ in self._states}
        self._admin = {node: admin for node, admin in self._admin.items() if node in known}

    # Between keeper and workers.

    def as_push(self) -> dict[str, Any]:
        """All states, JSON-ready. The keeper pushes it at every change and at least every 5 s."""
        return {
            "admin": {node: admin.value for node, admin in self._admin.items()},
            "services": [
                [node, service.value, state.health.value, state.reason, state.since_s, state.good_s]
                for (node, service), state in self._states.items()
            ],
        }

    def adopt(self, push: Mapping[str, Any], now_s: float) -> None:
        """Worker: take over the keeper's states. What was seen after the keeper's last proof of health stays."""
        self._keeper_heard_s = now_s
        self._admin = {NodeId(node): AdminState(admin) for node, admin in push["admin"].items()}
        for name, service_name, health_name, reason, since_s, good_s in push["services"]:
            node, service, health = NodeId(name), Service(service_name), Health(health_name)
            mine = self.state(node, service)
            if health is Health.UP:
                # A keeper that has just started calls everything UP; only a proof lifts what is known here.
                if mine.health is not Health.UP and good_s >= mine.since_s:
                    self._set(node, service, replace(WELL, since_s=since_s, good_s=good_s))
            elif not (mine.health is Health.UP and mine.good_s > since_s):
                self._set(
                    node,
                    service,
                    replace(mine, health=health, reason=reason, since_s=since_s, witnesses=(), local=False),
                )

    def _set(self, node: NodeId, service: Service, state: ServiceState) -> None:
        if (node, service) not in self._states:
            return
        before = self._states[node, service].health
        self._states[node, service] = state
        if state.health is not before and self._on_change is not None:
            self._on_change(
                StateChange(node=node, service=service, before=before, after=state.health, reason=state.reason)
            )
