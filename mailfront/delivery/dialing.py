"""Opening a connection to a node: TCP or UNIX socket, TLS, greeting and LHLO.

A node that dies without a word is noticed: TCP keep-alive and TCP_USER_TIMEOUT end the connection after about a
minute of silence on the network, also while we wait for the answer after the final dot.
"""

import asyncio
import socket
import ssl

from mailfront.base.printable import printable
from mailfront.delivery.connection import LmtpConnection, PeerTrouble
from mailfront.delivery.endpoint import NodeEndpoint
from mailfront.delivery.settings import DeliverySettings
from mailfront.delivery.trouble import Cause, Stage, Trouble
from mailfront.protocol.lmtp import LmtpClient

KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES_COUNT = 3
LEAST_UNACKNOWLEDGED_S = 60.0


class Dialer:
    """Opens connections to one node."""

    def __init__(
        self,
        endpoint: NodeEndpoint,
        *,
        client_name: str,
        settings: DeliverySettings,
        tls_context: ssl.SSLContext | None,
        open_connections: set[LmtpConnection],
    ) -> None:
        """`client_name` goes into LHLO. `tls_context` verifies the node; needed unless the endpoint's TLS is off.
        `open_connections` gets every connection, and loses it when its transport is gone."""
        if endpoint.tls != "off" and tls_context is None:
            raise ValueError(f"{endpoint.host}: TLS is wanted and there is no TLS context")
        self._endpoint = endpoint
        self._client_name = client_name
        self._settings = settings
        self._tls_context = tls_context
        self._open_connections = open_connections
        self.size_limit_bytes = 0
        """The largest message that the node's last LHLO offered to take (SIZE); 0: it named no limit."""

    async def dial(self) -> LmtpConnection:
        """Open a connection that is ready for a transaction. Raises PeerTrouble. Cancellation closes it."""
        loop = asyncio.get_running_loop()
        tls = self._endpoint.tls
        core = LmtpClient(self._client_name, starttls=tls == "starttls")
        connection = LmtpConnection(core, loop, implicit_tls=tls == "implicit")
        try:
            await self._connect(loop, connection)
            self._open_connections.add(connection)
            connection.closed.add_done_callback(lambda _: self._open_connections.discard(connection))
            if tls == "implicit":
                await self._encrypt(loop, connection)
            if not await connection.handshake(self._settings.reply_timeout):
                await self._encrypt(loop, connection)
                await connection.handshake(self._settings.reply_timeout)
        except BaseException:
            connection.abort(Trouble(connection.stage, Cause.STOPPED, "the connection was given up"))
            raise
        self.size_limit_bytes = connection.extensions.size_limit_bytes
        return connection

    async def _connect(self, loop: asyncio.AbstractEventLoop, connection: LmtpConnection) -> None:
        endpoint = self._endpoint
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                if endpoint.path:
                    await loop.create_unix_connection(lambda: connection, endpoint.path)
                else:
                    await loop.create_connection(lambda: connection, endpoint.host, endpoint.port)
        except TimeoutError as error:
            text = f"no connection within {self._settings.connect_timeout:g} s"
            raise PeerTrouble(Trouble(Stage.CONNECT, Cause.STALLED, text)) from error
        except OSError as error:
            raise PeerTrouble(Trouble(Stage.CONNECT, Cause.NO_CONNECTION, _reason(error))) from error
        if not endpoint.path:
            _watch_for_silence(connection.transport.get_extra_info("socket"), self._settings.body_timeout)

    async def _encrypt(self, loop: asyncio.AbstractEventLoop, connection: LmtpConnection) -> None:
        assert self._tls_context is not None
        patience_s = self._settings.connect_timeout
        try:
            transport = await loop.start_tls(
                connection.transport,
                connection,
                self._tls_context,
                server_hostname=self._endpoint.certificate_name,
                ssl_handshake_timeout=patience_s,
            )
        except ssl.SSLCertVerificationError as error:
            text = f"the node's certificate is not accepted: {printable(error.verify_message)}"
            raise PeerTrouble(Trouble(Stage.TLS, Cause.NO_CONNECTION, text)) from error
        except (OSError, TimeoutError) as error:
            raise PeerTrouble(Trouble(Stage.TLS, Cause.NO_CONNECTION, _reason(error))) from error
        if transport is None:  # the connection ended meanwhile; the type says that it can
            raise PeerTrouble(connection.trouble or Trouble(Stage.TLS, Cause.LOST, "closed by the node"))
        connection.encrypted(transport)


def _reason(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return printable(str(strerror or error or type(error).__name__))


def _watch_for_silence(connected: socket.socket, body_timeout_s: float) -> None:
    # The kernel also gives up on a node that acknowledges and reads nothing: not before `body_timeout` would.
    unacknowledged_s = max(LEAST_UNACKNOWLEDGED_S, body_timeout_s)
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES_COUNT),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unacknowledged_s * 1000)),
    ):
        connected.setsockopt(level, option, value)
