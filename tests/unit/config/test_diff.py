"""What a reload would do about a change."""

from mailfront.config.diff import Effect, compare, verdict
from mailfront.config.load import parse
from mailfront.config.model import Configuration
from tests.unit.config.test_load import GOOD, PATH


def changed(*replacements: tuple[str, str]) -> Configuration:
    """The good configuration with some text replaced."""
    text = GOOD
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return parse(text, PATH)


RUNNING = parse(GOOD, PATH)


def test_no_change_is_no_change() -> None:
    """The same file differs in nothing, and reordering nodes is nothing."""
    first, second = GOOD.split("[[node]]")[1:]
    assert compare(RUNNING, parse(GOOD, PATH)) == ()
    assert compare(RUNNING, changed((f"{first}[[node]]{second}", f"{second}\n[[node]]{first}"))) == ()


def test_a_limit_is_applied_by_a_reload() -> None:
    """Most settings only need SIGHUP; values are shown as written."""
    (change,) = compare(RUNNING, changed(("[domains]", '[limits]\nmessage_size = "1MiB"\n[domains]')))
    assert (change.path, change.old, change.new) == ("limits.message_size", "50MiB", "1MiB")
    assert change.effect is Effect.RELOAD


def test_what_is_open_needs_a_restart() -> None:
    """One such change makes the whole reload a refused one."""
    new = changed(('state_dir = "state"', 'state_dir = "other"'), ('id = "store2"', 'id = "store2"\nweight = 200'))
    changes = {change.path: change.effect for change in compare(RUNNING, new)}
    assert changes == {"server.state_dir": Effect.RESTART, 'node["store2"].weight': Effect.RELOAD}
    assert verdict(compare(RUNNING, new)) is Effect.RESTART


def test_listeners_come_and_go_with_a_reload_but_keep_their_role() -> None:
    """A new address is bound; a bound socket does not change what is spoken on it."""
    new = changed(("127.0.0.1:2525", "127.0.0.1:2526"))
    assert verdict(compare(RUNNING, new)) is Effect.RELOAD
    assert verdict(compare(RUNNING, changed(('role = "smtp"', 'role = "lmtp"')))) is Effect.RESTART


def test_the_key_of_the_hash_is_never_changed() -> None:
    """Another cluster name would misplace every mailbox."""
    changes = compare(RUNNING, changed(('cluster = "example"', 'cluster = "other"')))
    assert [change.effect for change in changes] == [Effect.REFUSED]
    assert verdict(changes) is Effect.REFUSED


def test_a_node_that_goes_away_is_named_by_its_id() -> None:
    """The line warns that the running server may refuse it."""
    first = GOOD.split("[[node]]")[1]
    changes = compare(RUNNING, changed((f"[[node]]{first}", "")))
    gone = next(change for change in changes if change.path == 'node["store1"].id')
    assert gone.new is None
    assert gone.reason == "refused if the node still owns mailboxes"
