"""The caller's end of the admin socket. Synchronous: the command line has nothing else to do while it waits.

No retry: a verb that changes something may have been carried out when the answer was lost, and the error says so.
"""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mailfront.admin.errors import AdminError, Kind, NotRunning
from mailfront.admin.wire import MAX_ANSWER_BYTES, Alive, Progress, Result, read_answer, write_request
from mailfront.base.errors import RemoteProtocolError

CONNECT_WITHIN_S = 5.0
FRESH_S = 30.0
"""The server closes a connection on which nothing is asked for a minute: an older one is not used again."""
SILENCE_S = 30.0
"""The server says every few seconds that it works; after this much silence it is not well."""


class AdminClient:
    """One connection to the running server. Use as a context manager; connects at the first call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._asked_s = 0.0

    def __enter__(self) -> "AdminClient":
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def call(
        self, verb: str, arguments: dict[str, Any] | None = None, *, progress: Callable[[Progress], None] | None = None
    ) -> Any:
        """Ask the server and wait for its answer.

        Raises NotRunning if no server listens, AdminError for everything else that went wrong.
        """
        connected = self._connected()
        try:
            connected.sendall(write_request(verb, arguments or {}))
            while True:
                match read_answer(self._line(connected)):
                    case Result(value):
                        return value
                    case AdminError() as error:
                        raise error
                    case Progress() as note:
                        if progress is not None:
                            progress(note)
                    case Alive():
                        pass
        except TimeoutError as error:
            raise AdminError(
                f"the server has said nothing for {SILENCE_S:.0f} s; the command may still be carried out", Kind.LATER
            ) from error
        except (OSError, EOFError) as error:
            raise AdminError(
                "the server closed the connection before its answer; the command may have been carried out", Kind.LATER
            ) from error
        except RemoteProtocolError as error:
            raise AdminError(str(error)) from error

    def _connected(self) -> socket.socket:
        now_s = time.monotonic()
        if now_s - self._asked_s > FRESH_S:
            self.__exit__()
        self._asked_s = now_s
        if self._socket is None:
            connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connecting.settimeout(CONNECT_WITHIN_S)
            try:
                connecting.connect(str(self._path))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                connecting.close()
                raise NotRunning(f"no mailfront is running here: nothing listens on {self._path}") from error
            except PermissionError as error:
                connecting.close()
                raise AdminError(
                    f"you may not use {self._path}: be root or a member of the group server.admin_group"
                ) from error
            except OSError as error:
                connecting.close()
                raise AdminError(f"{self._path}: cannot connect: {error.strerror or error}", Kind.LATER) from error
            connecting.settimeout(SILENCE_S)
            self._socket = connecting
        return self._socket

    def _line(self, connected: socket.socket) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_ANSWER_BYTES:
                raise RemoteProtocolError("the server's answer is longer than the protocol allows")
            received = connected.recv(256 * 1024)
            if not received:
                raise EOFError
            self._buffer += received
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line
