"""What a reload would do about a change."""

from mailfront.config.diff import Effect, compare, gone_node, verdict, with_possessions
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


def test_the_server_says_what_a_node_that_goes_away_still_has() -> None:
    """With its counts the change is a refused one; a node that has nothing may go."""
    first = GOOD.split("[[node]]")[1]
    changes = compare(RUNNING, changed((f"[[node]]{first}", "")))
    assert [name for each in changes if (name := gone_node(each))] == ["store1"]
    told = with_possessions(changes, {"store1": "2048 buckets, 3 pins", "store2": "2048 buckets"})
    gone = next(change for change in told if gone_node(change))
    assert (gone.effect, gone.reason) == (Effect.REFUSED, "it still has 2048 buckets, 3 pins")
    assert verdict(told) is Effect.REFUSED
    assert with_possessions(changes, {"store1": ""}) == changes


def test_filters_and_routes_are_named() -> None:
    """A setting of one is shown by its name, wherever it stands in the file."""
    routes = '[[route]]\ndomain = "lists.example.edu"\nhost = "10.0.0.9"\nlmtp = 8024\n'
    old = changed(("[domains]", f"{routes}[domains]"))
    new = changed(("[domains]", f"{routes.replace('8024', '8025')}[domains]"))
    assert {change.path.split(".lmtp")[0] for change in compare(old, new)} == {'route["lists.example.edu"]'}


def test_the_order_of_filters_is_a_setting() -> None:
    """They are compared by name, and their order is a line of its own."""
    first, second = (f'[[filter]]\nname = "{name}"\nkind = "clamd"\n' for name in ("one", "two"))
    old, new = (changed(("[domains]", f"{filters}[domains]")) for filters in (first + second, second + first))
    assert [(change.path, change.old, change.new) for change in compare(old, new)] == [
        ("filter.order", ["one", "two"], ["two", "one"])
    ]
