"""The catalogue of events: every canonical line, its name and its fields.

An event is one fact in one line: a connection that ended, a message that was answered, a delivery attempt, a change
of state. `observe.log.emit` writes it to the log and to the event files; `trace` reads it back, so names and
meanings here are an interface. Free text for people is not an event: use a logger for that.

Every line also carries `time` (UTC), `event` and `process`. Field names end in their unit (`_s`, `_ms`, `_bytes`,
`_count`). A field that does not apply is left out or null. Values that came from outside are made printable by who
emits them (`base.printable`), and no secret is ever a field.

`problem()` says what is wrong with an event; `observe.log` raises on it until the log is configured (so in tests),
and afterwards reports it once and writes the line all the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

COMMON_FIELDS = {
    "time": "When, UTC, RFC 3339 with milliseconds.",
    "event": "The name of the event.",
    "process": "Which process of this front end: worker-0, keeper, supervisor.",
}

ADDRESS_FIELDS = frozenset({"address", "reverse_path", "recipient", "to"})
"""Fields whose text is a mail address. `recipients` is a list of objects whose `address` is one."""


@dataclass(frozen=True, slots=True)
class EventKind:
    """One declared event. `fields` maps each name to what it means."""

    name: str
    summary: str
    fields: dict[str, str]


CATALOGUE: dict[str, EventKind] = {}
_NAMES: dict[str, frozenset[str]] = {}

_CLIENT = {
    "session": "Id of the client's connection; all lines of one connection share it.",
    "listener": "The listener's address as configured.",
    "client_ip": "The client's address: its own, or what a trusted PROXY header or XCLIENT said.",
    "client_port": "The client's port.",
    "proxy_ip": "The trusted peer that spoke for the client, if any.",
    "helo": "What the client called itself. Not believed.",
    "protocol": "SMTP, ESMTP, ESMTPS or LMTP.",
    "tls": "TLS version and cipher, or null.",
}
_SESSION = {
    **{name: _CLIENT[name] for name in ("session", "listener", "client_ip", "client_port", "proxy_ip", "tls")},
    "protocol": "imap, pop3 or sieve.",
    "login": "The name that the client gave. Not believed.",
    "mechanism": "How it logged in: PLAIN, LOGIN, XOAUTH2, OAUTHBEARER.",
    "mailbox": "Mailbox key of whoever the name belongs to.",
    "node": "Home node of the mailbox.",
    "position": "Where in the two dialogues it was: greeting, tls, directory, placement, hold, connect, node tls, "
    "node greeting, node capability, node login, relay.",
}
_MESSAGE = {
    "id": "Message id.",
    "reverse_path": "Envelope sender; empty for the null sender.",
    "recipients": "Objects: address, and where known mailbox, node, outcome, reply. At most 50.",
    "recipients_count": "How many recipients.",
    "size_bytes": "Size of the body as received.",
}
_QUEUE = {
    **_MESSAGE,
    "recipient": "The one recipient that this is about.",
    "mailbox": "Mailbox key of the recipient.",
    "node": "Storage node.",
    "home": "Home node of the mailbox.",
    "bucket": "Placement bucket of the mailbox.",
    "state": "State of the row afterwards.",
    "reason": "Why.",
    "reply": "The last answer of a node.",
    "next_attempt_s": "Seconds until the next attempt.",
    "age_s": "Seconds since the message arrived.",
    "rows_count": "How many rows.",
    "by": "Who asked: uid of the administrator, or the part of mailfront.",
}
_PROCESS = {
    "name": "Name of the process that this is about.",
    "pid": "Its process id.",
    "version": "Version of mailfront.",
    "uptime_s": "How long it had run.",
    "exit_status": "Exit status, if it ended by itself.",
    "signal": "Signal that ended it.",
    "restart_in_s": "Seconds until it is started again.",
    "restarts_count": "How often it was restarted.",
    "reason": "Why.",
}
_CONFIG = {
    "path": "The configuration file.",
    "problems": "One line per mistake.",
    "changed": "Names of the settings that changed.",
}


def _declare(name: str, summary: str, /, *groups: dict[str, str], **fields: str) -> None:
    merged: dict[str, str] = {}
    for group in (*groups, fields):
        merged.update(group)
    CATALOGUE[name] = EventKind(name, summary, merged)
    _NAMES[name] = frozenset(merged)


_declare(
    "connection",
    "A client's connection ended.",
    _CLIENT,
    commands_count="Commands received.",
    bad_commands_count="Commands refused as unknown or malformed.",
    early_count="How often the client spoke before its turn.",
    messages_count="Messages answered 2xx.",
    rejected_count="Transactions and recipients refused.",
    received_bytes="Bytes received.",
    duration_s="From accept to close.",
    end="How it ended: quit, lost, timeout, limit, protocol, shutdown, refused, failed.",
    stage="Where in the dialogue it ended: connect, proxy, helo, mail, rcpt, data, idle.",
    reason="The limit, error or reply that ended it.",
    reply="The last reply, if it ended the connection.",
)
_declare(
    "session",
    "A client's IMAP, POP3 or ManageSieve connection ended.",
    _SESSION,
    end="How it ended: logout, client, client lost, node, node lost, kicked, maintenance, shutdown, timeout, protocol, "
    "failures, refused, failed, lost.",
    reason="Why, if it ended before a login.",
    from_client_bytes="Bytes passed on to the node since the login.",
    from_node_bytes="Bytes passed on to the client since the login.",
    duration_s="Since the login; for a connection without one, since it was accepted.",
)
_declare(
    "login_failed",
    "A login was refused.",
    _SESSION,
    result="failed (wrong name or password), disabled, in_use (POP3), unavailable (our trouble or a node's), too_many.",
    reason="Why, in our words.",
)
_declare(
    "message",
    "A message was answered after end of data, or its transaction failed before.",
    _CLIENT,
    _MESSAGE,
    body_type="BODY parameter.",
    smtputf8="Whether SMTPUTF8 was asked for.",
    dsn="Whether DSN parameters were given.",
    result="delivered, queued, discarded, rejected, deferred, abandoned.",
    reply="The reply; for LMTP the first of them, the rest are with the recipients.",
    reason="Policy, limit or fault that decided.",
    nodes="Nodes that took part.",
    queued_count="Recipients that went to the queue.",
    failed_count="Recipients that failed.",
    handed_off_count="Recipients whose copy went to a handoff mailbox.",
    quarantined_count="Recipients whose copy a filter has put into quarantine or on hold.",
    filters="What each filter said: objects with filter, stage, verdict, ms and where there is one score, reason, "
    "error, edits_count, shadow.",
    duplicates_skipped_count="Recipients skipped because an earlier try had delivered the same body.",
    message_id="The Message-ID header that it came with.",
    sha256="Hash of the body as received, of a message without Message-ID.",
    envelope_ms="MAIL to end of the recipients.",
    data_ms="First body byte to end of data.",
    filter_ms="End of data to the filters' ruling.",
    delivery_ms="Fan-out to the nodes.",
    commit_ms="Waiting for the queue to commit.",
    total_ms="MAIL to the reply.",
)
_declare(
    "delivery",
    "One attempt at one node, or at a next hop, ended.",
    id=_MESSAGE["id"],
    node="Storage node, or next hop: @relay, @route:NAME.",
    home="Home node, if this was a handoff to a secondary.",
    source="cut-through, queue, handoff, drain, probe.",
    attempt="Number of the attempt, from 1.",
    reverse_path=_MESSAGE["reverse_path"],
    recipients=_MESSAGE["recipients"],
    recipients_count=_MESSAGE["recipients_count"],
    size_bytes="Bytes of body sent, trace header included.",
    outcome="delivered, deferred, failed, unknown, mixed, aborted.",
    reply="The node's answer, or ours for it.",
    reason="What went wrong, in our words.",
    blame="node or mailbox, for a deferral.",
    phase="How far it came: waiting, connecting, sending, dotted, done.",
    reused="Whether an idle connection was used.",
    retried="Whether a second, fresh connection was tried.",
    tls="TLS version and cipher, or null.",
    slot_ms="Waiting for a connection slot.",
    connect_ms="Connect to the end of LHLO and TLS.",
    envelope_ms="MAIL to 354.",
    body_ms="354 to the final dot.",
    final_ms="Final dot to the last reply.",
    total_ms="All of it.",
)
_declare(
    "handoff",
    "A copy for an unreachable home was put into, or refused by, a handoff mailbox.",
    _QUEUE,
    holder="Node whose handoff mailbox holds the copy.",
    step="begun, stored, dropped, superseded, failed.",
)
_declare(
    "drain",
    "A handed-off copy moved on.",
    _QUEUE,
    holder="Node whose handoff mailbox holds the copy.",
    step="draining, delivered, done, expunged, adopted, unknown, held, postponed, returned.",
    uid="IMAP UID of the copy.",
    duration_ms="How long the step took.",
    possible_duplicate="True if it was delivered again without knowing whether the first try had worked.",
)
_declare(
    "node_state",
    "A storage node changed state for one protocol, or its admin state was changed.",
    node="Storage node.",
    protocol="lmtp, imap, pop3, sieve.",
    state="up, suspect, down.",
    previous="State before.",
    admin="active, draining, maintenance.",
    reason="The evidence.",
    by=_QUEUE["by"],
    since_s="Seconds in the previous state.",
)
_declare(
    "alarm",
    "Something needs a person; or no longer does.",
    name="Stable name, such as storage.unknown_at_node.",
    state="raised or cleared.",
    text="What is wrong, where, what to do.",
    node="Storage node.",
    id=_MESSAGE["id"],
    mailbox=_QUEUE["mailbox"],
    count="How often since it was raised.",
)
_declare(
    "queue_resolved",
    "An unknown outcome was decided.",
    _QUEUE,
    outcome="found, not found, cannot search.",
)
_declare("queue_held", "Rows were put on hold.", _QUEUE)
_declare("queue_released", "Held rows were released.", _QUEUE)
_declare("queue_retried", "Rows were made due now.", _QUEUE)
_declare("queue_deleted", "Rows were deleted by an administrator.", _QUEUE)
_declare("queue_bounced", "An administrator gave rows up; the senders are told.", _QUEUE)
_declare("queue_redirected", "An administrator gave a row another address.", _QUEUE, to="The new address.")
_declare(
    "queue_imported",
    "A message came into the queue from an export.",
    _QUEUE,
)
_declare(
    "notice",
    "A sender is told what became of recipients, by a notice in the queue; or why nobody is told.",
    id="Message that it is about.",
    notice="Message id of the notice; empty if there is none.",
    kind="failed, delayed, delivered, relayed, expanded.",
    recipient="Who gets the notice.",
    about="Addresses that it is about. At most 50.",
    recipients_count="How many addresses it is about.",
    reason="Why nobody is told.",
)
_declare("queue_lapsed", "Leases of a process that is gone were taken back.", _QUEUE, owner="Who held the leases.")
_declare("queue_swept", "Leftovers of accepts that never committed were removed.", _QUEUE)
_declare(
    "queue_gate",
    "The queue gate opened or shut.",
    state="open or shut.",
    reason="Why.",
)
_declare("process_started", "A process is ready.", _PROCESS)
_declare("process_stopped", "A process ended as asked.", _PROCESS)
_declare("process_died", "A process ended unasked.", _PROCESS)
_declare("config_reloaded", "A changed configuration is in force.", _CONFIG)
_declare("config_refused", "A configuration was refused; the old one stays in force.", _CONFIG)
_declare(
    "admin_action",
    "An administrator's command changed something.",
    verb="The command.",
    selector="What it was applied to.",
    reason="Reason given.",
    uid="The caller's user id.",
    rows_count="How many things it changed.",
    node="Storage node.",
    dry_run="Whether it only showed.",
)


def problem(event: str, fields: Iterable[str]) -> str:
    """Say what is wrong with an event's name or fields; '' if nothing."""
    declared = _NAMES.get(event)
    if declared is None:
        return f"event {event!r} is not declared in mailfront/observe/events.py"
    if declared.issuperset(fields):
        return ""
    return f"event {event!r} has undeclared fields: {', '.join(sorted(set(fields) - declared))}"


def mask_address(address: str) -> str:
    """Hide who, keep where: `ana@example.edu` becomes `a***@example.edu`."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}***@{domain}" if at else f"{address[:1]}***" if address else ""
