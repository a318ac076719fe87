"""What `config check` asks the storage nodes: LMTP up to RCPT for the handoff account, IMAP logins, what they offer.

No message is sent and no mailbox is changed. All nodes are asked at once. Some settings of a node cannot be seen from
outside (what it answers to a mailbox over quota); a note says so. LMTP goes the way that deliveries go; IMAP is asked
by the standard library's client in a thread, each step within `_IMAP_TIMEOUT_S`.
"""

import asyncio
import imaplib
import socket
import ssl
from collections.abc import Iterator

from mailfront.base.errors import ConfigError
from mailfront.base.printable import printable
from mailfront.base.secret import Secret, read_secret_file
from mailfront.cluster.settings import NodePort, NodeSettings, StorageSettings
from mailfront.config.findings import Finding, failed, note, ok, warning
from mailfront.config.model import Configuration
from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.delivery.evidence import NoEvidence
from mailfront.delivery.transaction import Delivery, ProbeResult
from mailfront.mail.names import NodeId
from mailfront.net.tls import node_context
from mailfront.protocol.proxy_header import local_header

_IMAP_TIMEOUT_S = 10.0
_UNSEEN = (
    "cannot be seen from here: that a mailbox over quota is a temporary failure (452), asked at RCPT, and that the "
    "handoff account has no Sieve; deploy/dovecot/ shows the settings"
)


async def check_nodes(configuration: Configuration) -> list[Finding]:
    """Ask every node. Takes as long as the slowest one, at most the time-outs of `[delivery]`."""
    try:
        context = node_context(configuration.node_tls)
    except ConfigError:
        return []  # Said by the check of the files.
    delivery = Delivery(
        {NodeId(node.id): _endpoint(node) for node in configuration.node},
        client_name=configuration.server.hostname,
        settings=configuration.delivery,
        tls_context=context,
        evidence=NoEvidence(),
    )
    try:
        per_node = await asyncio.gather(
            *(_check_node(node, configuration, delivery, context) for node in configuration.node)
        )
    finally:
        await delivery.close()
    return [finding for findings in per_node for finding in findings] + [note("node", _UNSEEN)]


async def _check_node(
    node: NodeSettings, configuration: Configuration, delivery: Delivery, context: ssl.SSLContext
) -> list[Finding]:
    handoff = configuration.storage.handoff_mailbox
    lmtp, imap = await asyncio.gather(
        delivery.probe(NodeId(node.id), handoff),
        asyncio.to_thread(_check_imap, node, configuration.storage, context),
    )
    return [*_judge_lmtp(node, handoff, lmtp), *imap]


def _judge_lmtp(node: NodeSettings, handoff: str | None, seen: ProbeResult) -> Iterator[Finding]:
    where = f'node "{node.id}" lmtp'
    if not seen.lmtp_ok:
        yield failed(where, seen.text)
        return
    names = ", ".join(sorted(seen.extensions.names)) or "nothing"
    yield ok(where, f"greets and offers {names}")
    if not seen.extensions.pipelining:
        yield warning(where, "does not offer PIPELINING; each delivery waits for several answers")
    if not seen.extensions.smtputf8:
        yield note(where, "does not offer SMTPUTF8; mail to or from non-ASCII addresses is refused for its mailboxes")
    if handoff is not None:
        if seen.handoff_ok:
            yield ok(where, f"takes mail for {handoff}")
        else:
            yield failed(where, f"refuses the handoff account {handoff}: {seen.text}; make it as in deploy/dovecot/")


def _check_imap(node: NodeSettings, storage: StorageSettings, context: ssl.SSLContext) -> list[Finding]:
    return list(_imap_findings(node, storage, context))


def _imap_findings(node: NodeSettings, storage: StorageSettings, context: ssl.SSLContext) -> Iterator[Finding]:
    where = f'node "{node.id}" imap'
    if storage.handoff_mailbox is None or storage.handoff_password_file is None:
        return
    try:
        handoff_password = read_secret_file(storage.handoff_password_file)
    except ConfigError:
        return  # Said by the check of the files.
    user = storage.handoff_mailbox
    try:
        with _Imap(node, context) as session:
            session.login(user, "", handoff_password)
            yield ok(where, f"{user} can log in")
            yield from session.look_at_mailbox(where, user)
    except OSError as error:
        yield failed(where, f"cannot be used: {_said(error)}")
        return
    except imaplib.IMAP4.error as error:
        yield failed(where, f"{user} cannot log in: {_said(error)}; set its password as in handoff_password_file")
        return
    if storage.master_user is None or storage.master_password_file is None:
        return
    try:
        master_password = read_secret_file(storage.master_password_file)
        with _Imap(node, context) as session:
            session.login(user, storage.master_user, master_password)
            yield ok(where, f"{storage.master_user} can log in for others")
    except ConfigError:
        return
    except (OSError, imaplib.IMAP4.error) as error:
        yield failed(where, f"{storage.master_user} cannot log in for {user}: {_said(error)}; make it a master user")


class _Imap:
    """One IMAP session with a node, as a context manager. Raises OSError and imaplib's errors."""

    def __init__(self, node: NodeSettings, context: ssl.SSLContext) -> None:
        name = node.server_name or node.host
        self._client = _Client(node.host, node.imap, context, name)
        if node.imap.tls == "starttls":
            # The name to verify is that of the node, which may differ from the address that we connect to.
            self._client.host = name
            self._client.starttls(context)

    def __enter__(self) -> "_Imap":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._client.logout()
        except (OSError, imaplib.IMAP4.error):
            pass

    def login(self, user: str, master: str, password: Secret) -> None:
        """Log in as `user`, with the master user's name and password if `master` is given."""
        if "AUTH=PLAIN" in self._client.capabilities:
            plain = b"\0".join((user.encode() if master else b"", (master or user).encode(), password.reveal()))
            self._client.authenticate("PLAIN", lambda _challenge: plain)
        elif master:
            raise imaplib.IMAP4.error("AUTH=PLAIN is not offered here, and a master user needs it")
        else:
            self._client.login(user, password.reveal().decode())

    def look_at_mailbox(self, where: str, user: str) -> Iterator[Finding]:
        """What matters for reading handed-off copies."""
        client = self._client
        status, answer = client.select("INBOX", readonly=True)
        if status != "OK":
            yield failed(where, f"INBOX of {user} cannot be opened: {printable(answer[0] or b'')}")
            return
        capabilities = set(client.capabilities) | set(
            str(client.capability()[1][0], "ascii", "replace").upper().split()
        )
        if "UIDPLUS" not in capabilities:
            yield warning(where, "does not offer UIDPLUS; handed-off copies are expunged with whatever else is deleted")
        if "QUOTA" in capabilities:
            _, quota = client.getquotaroot("INBOX")
            if any(b"STORAGE" in line or b"MESSAGE" in line for part in quota for line in part or [] if line):
                yield warning(where, f"{user} has a quota; when it is full, this node can hold no mail for others")


class _Client(imaplib.IMAP4):
    """imaplib over TCP, TLS or a UNIX socket."""

    def __init__(self, host: str, port: NodePort, context: ssl.SSLContext, server_name: str) -> None:
        self._way = port
        self._context = context
        self._server_name = server_name
        super().__init__(host, port.port or 0, _IMAP_TIMEOUT_S)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        if self._way.path is not None:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connected.settimeout(timeout)
            try:
                connected.connect(self._way.path)
            except OSError:
                connected.close()
                raise
            return connected
        connected = socket.create_connection((self.host, self.port), timeout)
        if self._way.proxy:
            connected.sendall(local_header())
        if self._way.tls == "implicit":
            return self._context.wrap_socket(connected, server_hostname=self._server_name)
        return connected


def _endpoint(node: NodeSettings) -> NodeEndpoint:
    return NodeEndpoint(
        host=node.host,
        port=node.lmtp.port or 0,
        path=node.lmtp.path or "",
        tls=node.lmtp.tls,
        server_name=node.server_name or "",
        lmtp_connections=1,
    )


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror)
    said = error.args[0] if error.args else type(error).__name__
    return printable(said if isinstance(said, bytes) else str(said))
