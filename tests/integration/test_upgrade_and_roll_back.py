"""An upgrade across a migration, and the way back, as docs/how-to/reload-and-upgrade.md describes them.

`tests/support/schemas/r0003.sql` is the dump of a database that mailfront wrote when its schema was at revision 0003:
one message for ana, who waits, and ben, who is held.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from mailfront.store.migrations import HEAD
from tests.integration.test_queue_verbs import PEOPLE, QUICK, USERS, call, copies, queue_one, rows_of, table_of
from tests.support.demo_node import DemoNode
from tests.support.dovecot import HANDOFF_PASSWORD, HANDOFF_USER
from tests.support.mailfront_server import MailfrontServer
from tests.support.processes import wait_until

OLDER = Path(__file__).resolve().parents[1] / "support" / "schemas" / "r0003.sql"
OLD_ID = "06h0eg0rj6a7hfxa"


def put_back(front: MailfrontServer) -> None:
    """The database as the older mailfront left it: what a backup from before the upgrade is."""
    for leftover in front.state_dir.glob("state.db*"):
        leftover.unlink()
    with closing(sqlite3.connect(front.state_dir / "state.db")) as database:
        database.executescript(OLDER.read_text())


def revision(front: MailfrontServer) -> str:
    """The revision of the tables."""
    with closing(sqlite3.connect(front.state_dir / "state.db")) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_mail_survives_an_upgrade_and_the_way_back(tmp_path: Path) -> None:
    """The older queue is taken over by the migration; after the way back with export and import, what came meanwhile is
    there too, and everything is delivered once."""
    node = DemoNode("store1", {**dict.fromkeys(PEOPLE, "x"), HANDOFF_USER: HANDOFF_PASSWORD})
    front = MailfrontServer([table_of(node)], USERS, settings=QUICK, name="upgraded")
    exported = tmp_path / "queue.tar"
    put_back(front)
    assert revision(front) == "0003"
    front.start()
    try:
        assert revision(front) == HEAD
        older = rows_of(front)
        assert {who: row["state"] for (_, who), row in older.items()}["ben@example.edu"] == "held"
        assert older[OLD_ID, "ben@example.edu"]["reason"] == "held by uid 0: ticket 1"
        assert call(front, "queue.check", bodies=True)["problems"] == []
        newer = queue_one(front, "newer", "cid", "dan")
        front.stop()
        assert front.cli("queue", "export", str(exported), "--everything").returncode == 0
        put_back(front)
        front.start()
        done = front.cli_json("queue", "import", str(exported))
        assert (done["messages"], done["recipients"], done["here_before"], done["problems"]) == (1, 2, 1, [])
        assert set(rows_of(front)) == {
            *((OLD_ID, f"{name}@example.edu") for name in ("ana", "ben")),
            *((newer, f"{name}@example.edu") for name in ("cid", "dan")),
        }
        call(front, "queue.release", everything=True)
        node.start()
        wait_until(lambda: copies(node, "newer") == {"cid": 1, "dan": 1}, 60.0, "the newer message")
        wait_until(lambda: copies(node, "older") == {"ana": 1, "ben": 1}, 60.0, "the older message")
        wait_until(lambda: call(front, "queue.stats")["total"] == 0, 60.0, "an empty queue")
    finally:
        front.stop()
        node.stop()
