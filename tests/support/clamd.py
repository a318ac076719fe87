"""A real clamd on loopback with a few signatures of our own: nothing is downloaded.

It knows EICAR by its hash (also inside MIME parts and archives) and the text `MARKER` wherever it stands, so that tests
need no EICAR in a file.
"""

import os
import socket

from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, new_directory

START_TIMEOUT_S = 30.0
MARKER = "MAILFRONT-VIRUS-TEST-MARKER"
MARKER_NAME = "Mailfront.Test.Marker.UNOFFICIAL"
EICAR_NAME = "Eicar-Test-Signature.UNOFFICIAL"
_EICAR_PARTS = ("X5O!P%@AP[4\\PZX54(P^)7CC)7}$", "EICAR-STANDARD-ANTIVIRUS-TEST-FILE", "!$H+H*")


def eicar() -> bytes:
    """The test virus. In two halves here, so that no scanner takes this file for it."""
    return "".join(_EICAR_PARTS).encode()


class Clamd:
    """One clamd: `address` over TCP, `unix_address` over a UNIX socket.

    stream_max   its StreamMaxLength
    """

    def __init__(self, *, stream_max: str = "30M") -> None:
        self.directory = new_directory("clamd")
        self.directory.chmod(0o777)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.unix_address = f"unix:{self.directory}/clamd.sock"
        database = self.directory / "db"
        database.mkdir(mode=0o755)
        (database / "test.hdb").write_text("44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test-Signature\n")
        (database / "test.ndb").write_text(f"Mailfront.Test.Marker:0:*:{MARKER.encode().hex()}\n")
        settings = self.directory / "clamd.conf"
        settings.write_text(
            f"""\
DatabaseDirectory {database}
TCPSocket {self.port}
TCPAddr 127.0.0.1
LocalSocket {self.directory}/clamd.sock
Foreground yes
PidFile {self.directory}/clamd.pid
MaxThreads 4
StreamMaxLength {stream_max}
SelfCheck 0
ConcurrentDatabaseReload no
Bytecode no
OfficialDatabaseOnly no
"""
        )
        as_clamav = ["setpriv", "--reuid=clamav", "--regid=clamav", "--clear-groups"] if os.geteuid() == 0 else []
        self.process = ManagedProcess(
            [*as_clamav, "clamd", "-c", str(settings)], name="clamd", log_path=self.directory / "clamd.log"
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.process.launch()
        self.process.wait_for(self.answers, START_TIMEOUT_S, "an answer of clamd")

    def answers(self) -> bool:
        """Whether it answers PING."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5.0) as connection:
                connection.sendall(b"zPING\0")
                return connection.recv(64) == b"PONG\0"
        except OSError:
            return False

    def kill9(self) -> None:
        """End it at once."""
        self.process.kill9()
