"""A real rspamd on loopback: no network, no redis, quick to start.

The package's files stay as they are; our own `LOCAL_CONFDIR` switches off what needs the network. A small list of
top-level domains makes the first start fast. A test brings a message to an action with the words that `MARKERS` names;
`MILTER_MARKER` makes rspamd add and remove fields.
"""

import socket
from collections.abc import Mapping

from tests.support.ports import free_port
from tests.support.processes import ManagedProcess, new_directory

START_TIMEOUT_S = 40.0
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
MARKERS = {
    "greylist": "mark-of-the-grey",
    "add header": "mark-of-the-header",
    "rewrite subject": "mark-of-the-subject",
    "reject": "mark-of-the-reject",
    "soft reject": "mark-of-the-softness",
}
MILTER_MARKER = "mark-of-the-milter"
_OFF = (
    "rbl surbl fuzzy_check asn mx_check phishing url_redirector reputation neural rspamd_update dmarc spf dkim arc mid "
    "maillist whitelist hfilter once_received dkim_signing greylist history_redis ratelimit replies bimi multimap "
    "milter_headers"
)
_LUA = """
local marks = {
  ['mark-of-the-grey'] = 'greylist',
  ['mark-of-the-header'] = 'add header',
  ['mark-of-the-subject'] = 'rewrite subject',
  ['mark-of-the-reject'] = 'reject',
  ['mark-of-the-softness'] = 'soft reject',
}
rspamd_config:register_symbol({
  name = 'MARKS', type = 'prefilter', priority = 10,
  callback = function(task)
    local text = tostring(task:get_content())
    for mark, action in pairs(marks) do
      if text:find(mark, 1, true) then
        task:set_pre_result(action, 'marked for ' .. action)
      end
    end
    if text:find('mark-of-the-milter', 1, true) then
      task:set_milter_reply({
        add_headers = {['X-Rspamd-Probe'] = {value = 'seen', order = 1}},
        remove_headers = {['X-Remove-Me'] = 0},
      })
    end
  end,
})
"""


class Rspamd:
    """One rspamd: `url` of its normal worker, `unix_url` of the same over a UNIX socket."""

    def __init__(self) -> None:
        self.directory = new_directory("rspamd")
        self.directory.chmod(0o777)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.unix_url = f"unix:{self.directory}/rspamd.sock"
        self._write()
        names = {"LOCAL_CONFDIR": "etc", "DBDIR": "db", "RUNDIR": "run", "LOGDIR": "log"}
        self.process = ManagedProcess(
            [
                "rspamd", "-f", "-u", "_rspamd", "-g", "_rspamd", "-c", "/etc/rspamd/rspamd.conf",
                *(f"--var={name}={self.directory / folder}" for name, folder in names.items()),
            ],
            name="rspamd",
            log_path=self.directory / "rspamd.log",
        )  # fmt: skip

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.process.launch()
        self.process.wait_for(self.answers, START_TIMEOUT_S, "an answer of rspamd")

    def answers(self) -> bool:
        """Whether it answers `/ping`."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5.0) as connection:
                connection.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
                return b"pong" in connection.recv(4096)
        except OSError:
            return False

    def kill9(self) -> None:
        """End it at once."""
        self.process.kill9()

    def _write(self) -> None:
        etc = self.directory / "etc"
        for folder in (etc / "local.d", self.directory / "db", self.directory / "run", self.directory / "log"):
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        tld = etc / "tld.dat"
        tld.write_text("com\norg\nnet\nedu\ntest\nexample\n")
        files: Mapping[str, str] = {
            "options.inc": f"""
                filters = "regexp";
                local_addrs = [];
                dns {{ nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 1; sockets = 1; }}
                task_timeout = 8s;
                map_watch_interval = 1h;
                url_tld = "{tld}";
            """,
            "worker-normal.inc": f"""
                bind_socket = "127.0.0.1:{self.port}";
                bind_socket = "{self.directory}/rspamd.sock mode=0666";
                count = 1;
            """,
            "worker-controller.inc": "enabled = false;\n",
            "worker-proxy.inc": "enabled = false;\n",
            "worker-fuzzy.inc": "enabled = false;\n",
            "logging.inc": 'type = "console"; level = "notice";\n',
            # What the package's own rules make of a short message is not what the tests are about.
            "actions.conf": "greylist = 100; add_header = 200; rewrite_subject = 300; reject = 400;\n",
            **{f"{name}.conf": "enabled = false;\n" for name in _OFF.split()},
        }
        for name, text in files.items():
            (etc / "local.d" / name).write_text(text)
        lua = etc / "rspamd.local.lua"
        lua.write_text(_LUA)
        for path in etc.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


def gtube_message(to: str) -> bytes:
    """A message that rspamd and SpamAssassin must refuse."""
    return f"From: spammer@example.org\r\nTo: {to}\r\nSubject: buy\r\n\r\n{GTUBE}\r\n".encode()
