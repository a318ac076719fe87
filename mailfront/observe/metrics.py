"""The metrics of mailfront: each declared once here, counted in every process, read by the keeper.

Names are `mailfront_<package>_<what>_<unit>`. Labels come from closed sets: the values listed here, or names from the
configuration (nodes, listeners). An address, an id or a text is never a label. Label values are given by position:
`metrics.DELIVERY_ATTEMPTS.inc("store1", "delivered")`.

Processes share one directory of small memory-mapped files (prometheus_client's multiprocess mode), so counting needs
no message, and what a killed worker had counted is kept but for the last moment (see `mailfront.observe.meters`).
Order of calls: the supervisor calls `prepare(directory)` once; each process calls `start(directory, name)` before it
counts; the keeper calls `render()`; whoever sees a process end calls `process_gone(directory, name)`. The name belongs
to the place (`worker-0`), not to the process id: a restarted worker goes on where the last one stopped, and the number
of files stays fixed. Two live processes must never use one name, and it has no underscore. Without `start` values live
in this process only.
"""

from pathlib import Path

from mailfront.observe import meters
from mailfront.observe.meters import FROM_CONFIGURATION, Counter, Gauge, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_SERVICES = ("lmtp", "imap", "pop3", "sieve", "handoff")
_OUTCOMES = (
    "delivered", "deferred_node", "deferred_mailbox", "failed", "unknown", "handed_off", "held", "quarantined",
    "discarded", "split",
)  # fmt: skip

# net, edge
EDGE_CONNECTIONS = Counter(
    "mailfront_edge_connections_total",
    "Client connections by what became of them at accept.",
    listener=FROM_CONFIGURATION,
    result=("accepted", "refused_total", "refused_per_ip", "refused_proxy"),
)
EDGE_CONNECTIONS_OPEN = Gauge(
    "mailfront_edge_connections_open_count", "Client connections open now.", "livesum", listener=FROM_CONFIGURATION
)
EDGE_REJECTIONS = Counter(
    "mailfront_edge_rejections_total",
    "Commands, messages and connections refused by a limit or by syntax.",
    reason=(
        "syntax", "sequence", "bad_commands", "line_length", "message_size", "recipients", "bare_newline", "timeout",
        "slow_upload", "body_disk", "tls_residue", "proxy_header", "internal", "draining",
        "filters",
    ),
)  # fmt: skip
EDGE_RECEIVED_BYTES = Counter("mailfront_edge_received_bytes_total", "Bytes of message bodies received.")
EDGE_TLS_HANDSHAKES = Counter(
    "mailfront_edge_tls_handshakes_total", "TLS handshakes with clients.", result=("ok", "failed")
)
BODY_MEMORY_BYTES = Gauge("mailfront_net_body_memory_bytes", "Memory that bodies hold now.", "livesum")
BODY_DISK_BYTES = Gauge("mailfront_net_body_disk_bytes", "Spool space that bodies hold now.", "livesum")
CHANNEL_REQUESTS = Counter(
    "mailfront_net_channel_requests_total",
    "Requests of workers to the keeper.",
    result=("ok", "refused", "timeout", "away", "busy"),
)
CHANNEL_SECONDS = Histogram("mailfront_net_channel_request_seconds", "Time until the keeper answered.", _SECONDS)
CHANNEL_CONNECTS = Counter("mailfront_net_channel_connects_total", "Connections made to the keeper.")
DNS_LOOKUPS = Counter(
    "mailfront_net_dns_lookups_total",
    "DNS look-ups of filters: answered from the cache, by a server, or by nobody.",
    result=("cached", "asked", "trouble"),
)

# sessions
_ROLES = ("imap", "pop3", "sieve")
SESSION_CONNECTIONS = Counter(
    "mailfront_sessions_connections_total",
    "Connections to IMAP, POP3 and ManageSieve listeners by what became of them at accept.",
    listener=FROM_CONFIGURATION,
    result=("accepted", "refused_total", "refused_per_ip", "refused_proxy"),
)
SESSION_WAITING = Gauge(
    "mailfront_sessions_before_login_count", "Connections that have not logged in yet.", "livesum",
    listener=FROM_CONFIGURATION,
)  # fmt: skip
SESSIONS_OPEN = Gauge(
    "mailfront_sessions_open_count", "Sessions that are logged in.", "livesum", protocol=_ROLES, node=FROM_CONFIGURATION
)
SESSION_REJECTIONS = Counter(
    "mailfront_sessions_rejections_total",
    "Connections ended before a login, by a limit or by syntax.",
    reason=("line_length", "literal_size", "syntax", "bad_commands", "tls_residue", "timeout"),
)
SESSION_TLS_HANDSHAKES = Counter(
    "mailfront_sessions_tls_handshakes_total", "TLS handshakes with clients.", result=("ok", "failed")
)
SESSION_BYTES = Counter(
    "mailfront_sessions_relayed_bytes_total",
    "Bytes passed on, counted when the session ends.",
    protocol=_ROLES,
    node=FROM_CONFIGURATION,
    direction=("from_client", "from_node"),
)
LOGINS = Counter(
    "mailfront_sessions_logins_total",
    "Logins by their result; `unavailable` is our trouble or a node's. `node` is empty before the home is known.",
    protocol=_ROLES,
    node=FROM_CONFIGURATION,
    result=("ok", "failed", "disabled", "in_use", "unavailable", "too_many"),
)
LOGINS_SLOWED = Counter(
    "mailfront_sessions_logins_slowed_total", "Logins that had to wait because others had failed from there or there."
)
LOGINS_HELD = Gauge("mailfront_sessions_logins_held_count", "Logins that wait for their home.", "livesum")

# intake
INTAKE_MESSAGES = Counter(
    "mailfront_intake_messages_total",
    "Messages by their reply.",
    result=("delivered", "queued", "discarded", "rejected", "deferred"),
)
INTAKE_RECIPIENTS = Counter(
    "mailfront_intake_recipients_total",
    "RCPT commands by their reply; `unserved` is 4.3.5: no home, too long a list, or a wrong entry.",
    result=(
        "accepted", "unknown", "relay_denied", "suspended", "over_quota", "directory_unavailable", "gate_shut",
        "unserved", "filtered", "other",
    ),
)  # fmt: skip
INTAKE_OUTCOMES = Counter(
    "mailfront_intake_outcomes_total", "Mailboxes by what became of their copy.", outcome=_OUTCOMES
)

INTAKE_SECONDS = Histogram(
    "mailfront_intake_stage_seconds",
    "Time from end of data (answer) and from MAIL (total) to the reply.",
    _SECONDS,
    stage=("answer", "total"),
)

# filters
_FILTER_SECONDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
)  # fmt: skip
FILTERS_VERDICTS = Counter(
    "mailfront_filters_verdicts_total",
    "What filters said; `error`: nothing, and the filter's on_error applied.",
    filter=FROM_CONFIGURATION,
    verdict=("continue", "discard", "hold", "quarantine", "tempfail", "reject", "error"),
)
FILTERS_SECONDS = Histogram(
    "mailfront_filters_answer_seconds",
    "Time until a filter answered, waiting for its turn included.",
    _FILTER_SECONDS,
    filter=FROM_CONFIGURATION,
)
FILTERS_COUNTERS = Gauge(
    "mailfront_filters_counters_count", "Keys that the filters greylist and rate count under.", "livemax"
)
FILTERS_BREAKER_OPEN = Gauge(
    "mailfront_filters_breaker_open_count",
    "Processes in which this host of a filter is not called because it does not answer.",
    "livesum",
    filter=FROM_CONFIGURATION,
    host=FROM_CONFIGURATION,
)

# directory
DIRECTORY_LOOKUPS = Counter("mailfront_directory_lookups_total", "Look-ups of recipients.")
DIRECTORY_ANSWERS = Counter(
    "mailfront_directory_answers_total",
    "Look-ups that were answered without a search of their own, by what answered; `none`: nobody could tell.",
    source=("cache", "joined", "stale", "snapshot", "none"),
)
LDAP_SEARCHES = Counter(
    "mailfront_directory_ldap_searches_total", "Searches sent to LDAP servers.", result=("ok", "failed")
)

# delivery
DELIVERY_ATTEMPTS = Counter(
    "mailfront_delivery_attempts_total",
    "LMTP attempts by outcome.",
    node=FROM_CONFIGURATION,
    outcome=("delivered", "deferred_node", "deferred_mailbox", "failed", "unknown", "mixed", "aborted"),
)
DELIVERY_SECONDS = Histogram(
    "mailfront_delivery_attempt_seconds", "Time of an LMTP attempt.", _SECONDS, node=FROM_CONFIGURATION
)
DELIVERY_CONNECTS = Counter(
    "mailfront_delivery_connects_total",
    "Connections opened to nodes.",
    node=FROM_CONFIGURATION,
    result=("ok", "refused", "timeout", "tls_failed", "rejected", "lost"),
)
DELIVERY_CONNECTIONS = Gauge(
    "mailfront_delivery_connections_count",
    "Connections to nodes.",
    "livesum",
    node=FROM_CONFIGURATION,
    state=("idle", "busy"),
)
DELIVERY_SLOT_TIMEOUTS = Counter(
    "mailfront_delivery_slot_timeouts_total", "Attempts that got no connection slot in time.", node=FROM_CONFIGURATION
)
DELIVERY_ROUTE_CHECKS = Counter(
    "mailfront_delivery_route_checks_total",
    "Recipients that the server of a route was to be asked about at RCPT, by what came of it.",
    result=("accepted", "refused", "remembered", "no answer", "not asked"),
)

# sessions
SESSIONS_UNLISTED = Counter(
    "mailfront_sessions_unlisted_total", "Sessions that a worker had beyond what the keeper lists of one worker."
)
SESSIONS_LISTED = Gauge(
    "mailfront_sessions_listed_count", "Logged-in sessions that the keeper knows of, of all workers.", "livemax"
)

# cluster
NODE_STATE = Gauge(
    "mailfront_cluster_node_state_count",
    "State of a node as the keeper sees it: 2 up, 1 suspect, 0 down.",
    "livemax",
    node=FROM_CONFIGURATION,
    protocol=_SERVICES,
)
NODE_CHANGES = Counter(
    "mailfront_cluster_node_changes_total",
    "Changes of a node's state.",
    node=FROM_CONFIGURATION,
    protocol=_SERVICES,
    state=("up", "suspect", "down"),
)
MAP_VERSION = Gauge("mailfront_cluster_map_version_count", "Version of the placement map.", "livemax")
MAP_BUCKETS = Gauge("mailfront_cluster_buckets_count", "Buckets that a node owns.", "livemax", node=FROM_CONFIGURATION)

# store, queue, transfer
STORE_COMMITS = Counter("mailfront_store_commits_total", "Transactions.", result=("ok", "failed"))
STORE_COMMIT_SECONDS = Histogram("mailfront_store_commit_seconds", "Time of a commit with its fsync.", _SECONDS)
STORE_OPERATIONS = Counter("mailfront_store_operations_total", "Operations that were committed together or alone.")
QUEUE_GATE_OPEN = Gauge("mailfront_queue_gate_open_count", "1 while the queue takes messages.", "livemax")
QUEUE_RECIPIENTS = Gauge(
    "mailfront_queue_recipients_count",
    "Queued recipients per state, counted once a minute.",
    "livemax",
    state=("due", "active", "deferred", "held", "quarantined", "unknown", "handed-off"),
)
QUEUE_OLDEST_S = Gauge("mailfront_queue_oldest_seconds", "Age of the oldest queued message.", "livemax")
QUEUE_ACCEPTED = Counter("mailfront_queue_accepted_total", "Recipients committed to the queue.")
QUEUE_NOTICES = Counter(
    "mailfront_queue_notices_total",
    "Notices to senders (DSN) committed to the queue, by kind; none: nobody is told.",
    kind=("failed", "delayed", "delivered", "relayed", "expanded", "none"),
)
TRANSFER_DRAINS = Counter(
    "mailfront_transfer_drains_total",
    "Copies brought home, by step.",
    step=("delivered", "expunged", "adopted", "unknown", "held", "postponed", "returned"),
)
TRANSFER_HANDED_OFF = Gauge(
    "mailfront_transfer_handed_off_count", "Recipients handed off, per holder.", "livemax", node=FROM_CONFIGURATION
)

# observe, app
ALARMS_ACTIVE = Gauge("mailfront_observe_alarms_active_count", "Alarms that are raised.", "livemax")
LOOP_LAG_SECONDS = Histogram(
    "mailfront_edge_loop_lag_seconds", "How late a worker's event loop runs a timer.", _SECONDS
)
LINES_DROPPED = Gauge("mailfront_observe_lines_dropped_count", "Log lines that nobody took.", "livesum")


def prepare(directory: Path) -> None:
    """Make the shared directory and empty it. The supervisor calls this before it starts any process."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in directory.glob("*.db"):
        path.unlink()


def start(directory: Path, process: str) -> None:
    """Count into the shared directory from now on. Raises ValueError for a name with an underscore."""
    if "_" in process:
        raise ValueError(f"process name {process!r}: an underscore is not possible in the file names of metrics")
    meters.open_storage(directory, process)


def process_gone(directory: Path, process: str) -> None:
    """Take the gauges of a process that ended out of the sums; its counters stay."""
    meters.forget_gauges(directory, process)


def render() -> bytes:
    """All metrics of all processes in Prometheus' text format (`CONTENT_TYPE`); 5-20 ms, more with many nodes."""
    return meters.render_all()
