"""The directory over a real OpenLDAP: right answers, hostile names, and every way in which LDAP can be away."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailfront.base.clock import ManualClock, SystemClock
from mailfront.base.tasks import spawn
from mailfront.directory.answers import Answer, CannotSay, DirectoryRecord, Found, NoSuch, Source, Status
from mailfront.directory.directory import Directory
from mailfront.directory.ldap import LdapDirectory
from mailfront.directory.settings import LdapSettings
from mailfront.mail.address import Address
from tests.support.certificates import Authority, CertificateFiles
from tests.support.ldap import BIND_DN, BIND_PASSWORD, PEOPLE, Person, Slapd, ordinary_people, special_people
from tests.support.ports import free_port

Make = Callable[..., Awaitable[Directory]]

HOSTILE = [
    "*",
    "**",
    "u*",
    "user000?",
    "(",
    ")",
    "()",
    "\\",
    "\\2a",
    "\\",
    "*)(uid=*))(|(uid=*",
    "*)(objectClass=*",
    "user0000)(mail=*",
    "user0000@example.edu)(|(mail=*",
    "x)(|(objectclass=*)",
    "admin)(&)",
    "(&",
    "|",
    "!(uid=nobody)",
    "user0000\x00",
    "\x00",
    "user0000\x00*)(uid=*",
    "user0000\r\nDATA",
    "user0000 ",
    " user0000",
    "user0000\u00ad",
    "\u200buser0000",
    "\ufe0fuser0000",
    "ｕｓｅｒ0000",
    "user000\u2080",
    "usеr0000",  # Cyrillic e
    "\u202e0000resu",
    "user0000\ud800",
    "{address}",
    "{local}{domain}",
    "%s%n",
    "$(id)",
    "'; DROP TABLE recipient; --",
    "user0000,ou=people",
    "uid=user0000",
    "a" * 64,
    "a" * 100_000,
    "*" * 64,
    "(" * 64,
    "ü" * 32,
    "+",
    "+user0000",
]


@pytest.fixture(scope="module")
def pair(server_certificate: CertificateFiles) -> Iterator[tuple[Slapd, Slapd]]:
    """Two servers with the same people; tests stop and hang them."""
    people = [*ordinary_people(60), *special_people()]
    servers = (Slapd(people=people, tls=server_certificate), Slapd(people=people, tls=server_certificate))
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill9()


@pytest.fixture(autouse=True)
def _bring_servers_back(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "pair" in request.fixturenames:
        for server in request.getfixturevalue("pair"):
            if server.process.running:
                server.resume()
            else:
                server.start()


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make directories over servers; all are closed at the end."""
    (tmp_path / "password").write_text(BIND_PASSWORD)
    made: list[Directory] = []

    async def make_one(*servers: Slapd, clock: Any = None, keeps_snapshot: bool = False, **changes: Any) -> Directory:
        base = {
            "kind": "ldap",
            "urls": [server.url for server in servers],
            "base": PEOPLE,
            "bind_dn": BIND_DN,
            "password_file": str(tmp_path / "password"),
        }
        directory = Directory(
            LdapSettings.model_validate(base | changes),
            state_dir=tmp_path,
            clock=clock or SystemClock(),
            keeps_snapshot=keeps_snapshot,
        )
        made.append(directory)
        await directory.open()
        return directory

    yield make_one
    for directory in made:
        await directory.close()


def address(local: str) -> Address:
    """An address of the test domain."""
    return Address(local, "example.edu")


def record(answer: Answer) -> DirectoryRecord:
    """The record of a Found."""
    assert isinstance(answer, Found), answer
    return answer.record


def message_id(request: bytes) -> int:
    """The message id of an LDAP request."""
    return int.from_bytes(request[_id_start(request) : _operation_start(request)], "big")


def is_bind(request: bytes) -> bool:
    """Whether an LDAP request is a bind."""
    return request[_operation_start(request)] == 0x60


def _id_start(request: bytes) -> int:
    return 4 if request[1] < 0x80 else 4 + (request[1] & 0x7F)


def _operation_start(request: bytes) -> int:
    start = _id_start(request)
    return start + request[start - 1]


def success(number: int, operation: int) -> bytes:
    """An LDAP answer that says success: operation 0x61 to a bind, 0x65 to a search, 0x78 to StartTLS."""
    content = b"\x02\x04" + number.to_bytes(4, "big") + bytes([operation]) + b"\x07\x0a\x01\x00\x04\x00\x04\x00"
    return b"\x30" + bytes([len(content)]) + content


async def until(condition: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    """Wait for a condition with a limit, without blocking the event loop."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {limit_s}s in vain for {what}"
        await asyncio.sleep(0.02)


async def test_people_aliases_details_and_flags(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """Each kind of entry is read as what it is."""
    directory = await make(pair[0], attributes={"host": "mailHost"})
    plain = record(await directory.recipient(address("User0001")))
    assert (plain.mailbox, plain.key) == ("user0001", "user0001@example.edu")
    assert record(await directory.recipient(address("first0001.last"))) == plain
    detailed = await directory.recipient(address("user0001+Lists"))
    assert isinstance(detailed, Found)
    assert (detailed.record, detailed.detail) == (plain, "Lists")
    assert record(await directory.recipient(address("suspended"))).status is Status.SUSPENDED
    assert record(await directory.recipient(address("active"))).status is Status.ACTIVE
    assert record(await directory.recipient(address("forwarder"))).redirected
    assert record(await directory.recipient(address("hosted"))).host == "store2"
    mixed = record(await directory.recipient(address("mixed.case")))
    assert (mixed.mailbox, mixed.key) == ("MixedCase", "mixedcase@example.edu")
    assert isinstance(await directory.recipient(address("nobody")), NoSuch)


async def test_a_group_is_redirected(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """An entry of a group class has no mailbox of its own."""
    pair[0].apply_ldif(
        f"dn: cn=all,{PEOPLE}\nchangetype: add\nobjectClass: groupOfNames\nobjectClass: extensibleObject\n"
        f"cn: all\nmail: all@example.edu\nmember: {pair[0].dn('user0001')}\n"
    )
    directory = await make(pair[0])
    try:
        assert record(await directory.recipient(address("all"))).redirected
    finally:
        pair[0].apply_ldif(f"dn: cn=all,{PEOPLE}\nchangetype: delete\n")


async def test_two_entries_for_one_address_are_an_alarm(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """Neither mailbox is taken; the alarm names both entries."""
    directory = await make(pair[0])
    answer = await directory.recipient(address("twins"))
    assert isinstance(answer, CannotSay)
    assert answer.alarm == "directory.ambiguous"
    assert pair[0].dn("twin1") in answer.reason
    assert pair[0].dn("twin2") in answer.reason


@pytest.mark.parametrize(
    "search_filter",
    [
        "(|(mail={address})(mailAlternateAddress={address}))",
        "(uid={local})",
        "(&(objectClass=mailfrontUser)(|(uid={local})(mail={local}@{domain})))",
    ],
)
async def test_hostile_names_find_nobody(make: Make, pair: tuple[Slapd, Slapd], search_filter: str) -> None:
    """No name of the corpus finds an entry, breaks a search, or makes a server look down."""
    directory = await make(pair[0], recipient_filter=search_filter, one_namespace=True)
    for local in HOSTILE:
        answer = await directory.recipient(address(local))
        assert isinstance(answer, NoSuch), (local, answer)
    assert directory.troubles() == ()
    assert directory.counters.ldap_failures == 0
    assert record(await directory.recipient(address("user0000"))).mailbox == "user0000"


async def test_a_mailbox_name_that_no_node_can_be_told_is_never_guessed(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """A uid with a backslash is an entry to be mended: cannot say, with an alarm; never "no such user"."""
    directory = await make(pair[0])
    answer = await directory.recipient(address("back\\slash"))
    assert isinstance(answer, CannotSay)
    assert answer.alarm == "directory.bad_entry"


@pytest.mark.parametrize("uid", ["o'brien", "star*", "paren)(uid=*"])
async def test_people_whose_names_are_syntax_are_found_as_themselves(
    make: Make, pair: tuple[Slapd, Slapd], uid: str
) -> None:
    """A name full of filter characters finds its one owner."""
    directory = await make(pair[0])
    assert record(await directory.recipient(address(uid))).mailbox == uid


async def test_names_outside_ascii_are_found(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """UTF-8 goes through the filter unharmed, in any case and composition."""
    directory = await make(pair[0], recipient_filter="(uid={local})")
    for local in ("müller", "MÜLLER", "mu\u0308ller"):
        assert record(await directory.recipient(address(local))).mailbox == "müller"


async def test_the_warm_path_asks_nobody(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """After the first look-up neither our counter nor the server's own log counts another search."""
    directory = await make(pair[0])
    await directory.recipient(address("user0002"))
    searches, logged = directory.counters.ldap_searches, pair[0].searches()
    for _ in range(1000):
        assert isinstance(await directory.recipient(address("user0002")), Found)
    assert directory.counters.ldap_searches == searches == 1
    assert pair[0].searches() == logged
    assert directory.counters.hits == 1000


async def test_a_hundred_callers_are_one_search(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """Single flight, counted by the server."""
    directory = await make(pair[0])
    before = pair[0].searches()
    answers = await asyncio.gather(*(directory.recipient(address("user0003")) for _ in range(100)))
    assert {record(answer).mailbox for answer in answers} == {"user0003"}
    assert pair[0].searches() - before == directory.counters.ldap_searches == 1


async def test_many_addresses_share_a_few_connections(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """Sixty look-ups at once open no more connections than `pool`, and bind once on each."""
    directory = await make(pair[0], pool=3)
    before = pair[0].binds()
    await asyncio.gather(*(directory.recipient(address(f"user{number:04}")) for number in range(60)))
    assert 1 <= pair[0].binds() - before <= 3
    assert directory.counters.ldap_searches == 60


async def test_ldap_stopped(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """Known users are answered from the old copy; nobody else is denied; all is fresh again after its return."""
    clock = ManualClock()
    directory = await make(pair[0], clock=clock)
    await directory.recipient(address("user0004"))
    await directory.recipient(address("nobody"))
    pair[0].stop()
    clock.advance(600)
    stale = await directory.recipient(address("user0004"))
    assert isinstance(stale, Found)
    assert (stale.source, stale.age_s) == (Source.STALE, 600.0)
    for local in ("nobody", "user0005", "user0005+x", "new"):
        answer = await directory.recipient(address(local))
        assert isinstance(answer, CannotSay), local
        assert answer.alarm == "directory.unreachable"
        assert pair[0].url in answer.reason
    (line,) = directory.troubles()
    assert "Connection refused" in line
    pair[0].start()
    await until(lambda: not directory.troubles(), "the server to be used again")
    fresh = await directory.recipient(address("user0004"))
    assert isinstance(fresh, Found)
    assert fresh.source is Source.LDAP
    assert isinstance(await directory.recipient(address("nobody")), NoSuch)


async def test_what_is_told_of_searches_under_way_adds_up(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """A search that has begun and not ended counts for nothing yet; when it fails it is one search and one failure."""
    directory = await make(pair[0], timeout="1s")
    assert isinstance(await directory.recipient(address("user0001")), Found)
    pair[0].hang()
    waiting = spawn(directory.recipient(address("user0002")), name="a look-up under way")
    await asyncio.sleep(0)
    counters = directory.counters
    assert (counters.ldap_searches, counters.ldap_failures) == (1, 0)
    assert isinstance(await waiting, CannotSay)
    assert (counters.ldap_searches, counters.ldap_failures) == (2, 1)


async def test_a_directory_that_is_known_to_be_down_costs_no_time(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """Once a server is left alone, look-ups do not even try it."""
    directory = await make(pair[0], timeout="1s")
    pair[0].hang()
    assert isinstance(await directory.recipient(address("user0006")), CannotSay)
    searches, started_s = directory.counters.ldap_searches, time.monotonic()
    for number in range(200):
        assert isinstance(await directory.recipient(address(f"guess{number}")), CannotSay)
    assert directory.counters.ldap_searches == searches
    assert time.monotonic() - started_s < 60.0  # far less than 200 times the time-out


@pytest.mark.parametrize("warm", [False, True], ids=["hangs-at-connect", "hangs-on-an-open-connection"])
async def test_ldap_that_hangs(make: Make, pair: tuple[Slapd, Slapd], warm: bool) -> None:
    """The deadline is kept, the event loop goes on, known users are answered from the old copy."""
    clock = ManualClock()
    directory = await make(pair[0], clock=clock, timeout="1s")
    if warm:
        await directory.recipient(address("user0007"))
        clock.advance(600)
    gaps_s: list[float] = []

    async def tick() -> None:
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now_s = time.monotonic()
            gaps_s.append(now_s - last_s)
            last_s = now_s

    ticker = spawn(tick(), name="ticker")
    pair[0].hang()
    started_s = time.monotonic()
    answers = await asyncio.gather(*(directory.recipient(address(f"user{number:04}")) for number in range(7, 40)))
    took_s = time.monotonic() - started_s
    ticker.cancel()
    assert took_s < 15.0  # together, not 33 times the time-out
    assert max(gaps_s) < 0.9  # nobody waits for the server in the event loop
    assert {type(answer) for answer in answers[1:]} == {CannotSay}
    if warm:
        assert isinstance(answers[0], Found)
        assert answers[0].source is Source.STALE
    pair[0].resume()
    await until(lambda: not directory.troubles(), "the server to be used again")
    assert isinstance(await directory.recipient(address("user0008")), Found)


async def test_threads_of_a_hung_server_are_free_again(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """Nobody waits for an answer that will not come: the threads end their calls soon after the deadline."""
    directory = await make(pair[0], timeout="1s", pool=2)
    pair[0].hang()
    await asyncio.gather(*(directory.recipient(address(f"user{number:04}")) for number in range(10)))

    def stuck() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("ldap")]

    await directory.close()
    await until(lambda: not stuck(), "the pool's threads to end", limit_s=3.0)


@pytest.mark.parametrize("fault", ["stopped", "hung"])
async def test_the_second_server_takes_over(make: Make, pair: tuple[Slapd, Slapd], fault: str) -> None:
    """One of two servers away: every look-up is answered in time, the first preferably again when it is back."""
    directory = await make(*pair, timeout="2s")
    assert isinstance(await directory.recipient(address("user0010")), Found)
    before = pair[1].searches()
    if fault == "stopped":
        pair[0].stop()
    else:
        pair[0].hang()
    started_s = time.monotonic()
    answers = await asyncio.gather(*(directory.recipient(address(f"user{number:04}")) for number in range(11, 31)))
    assert {type(answer) for answer in answers} == {Found}
    assert time.monotonic() - started_s < 20.0  # together, not 20 times the time-out
    assert pair[1].searches() - before == 20
    assert len(directory.troubles()) == 1
    if fault == "stopped":
        pair[0].start()
    else:
        pair[0].resume()
    await until(lambda: not directory.troubles(), "the first server to be used again")
    logged = pair[0].searches()
    assert isinstance(await directory.recipient(address("user0031")), Found)
    assert pair[0].searches() == logged + 1


async def test_a_server_that_closed_idle_connections_is_not_down(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """A restart between two look-ups costs a new connection and nothing else."""
    directory = await make(pair[0])
    assert isinstance(await directory.recipient(address("user0032")), Found)
    pair[0].stop()
    pair[0].start()
    assert isinstance(await directory.recipient(address("user0033")), Found)
    assert directory.counters.ldap_failures == 0
    assert directory.troubles() == ()


async def test_a_refused_search_takes_no_server_away(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """A base that does not exist is our fault and said so; it is never "no such address"."""
    directory = await make(pair[0], base="ou=nowhere,dc=example,dc=edu")
    answer = await directory.recipient(address("user0001"))
    assert isinstance(answer, CannotSay)
    assert "directory.base" in answer.reason
    assert directory.troubles() == ()


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
async def test_tls_is_verified(
    make: Make, pair: tuple[Slapd, Slapd], authority: Authority, tmp_path: Path, way: str
) -> None:
    """With the right authority it works; with another one, and by default, nothing is sent but the handshake."""
    right = {"starttls": True} if way == "starttls" else {"urls": [pair[0].ldaps_url]}
    good = await make(pair[0], ca=str(authority.ca_file), **right)
    assert isinstance(await good.recipient(address("user0001")), Found)
    binds = pair[0].binds()
    for ca in ({"ca": str(Authority(tmp_path, name="other").ca_file)}, {}):
        bad = await make(pair[0], **right, **ca)
        answer = await bad.recipient(address("user0001"))
        assert isinstance(answer, CannotSay)
        assert "certificate is not accepted" in answer.reason
        assert "directory.ca" in answer.reason
    assert pair[0].binds() == binds


async def test_a_certificate_for_another_name_is_refused(make: Make, authority: Authority) -> None:
    """The right authority is not enough."""
    server = Slapd(people=ordinary_people(1), tls=authority.issue("ldap.other.example", file_name="other-name"))
    server.start()
    try:
        directory = await make(server, urls=[server.ldaps_url], ca=str(authority.ca_file))
        answer = await directory.recipient(address("user0000"))
        assert isinstance(answer, CannotSay)
        assert "certificate is not accepted" in answer.reason
    finally:
        server.kill9()


async def test_starttls_is_not_optional(make: Make) -> None:
    """A server without TLS is not used in clear."""
    server = Slapd(people=ordinary_people(1))
    server.start()
    try:
        directory = await make(server, starttls=True)
        answer = await directory.recipient(address("user0000"))
        assert isinstance(answer, CannotSay)
        assert "no TLS" in answer.reason
        assert server.binds() == 0
    finally:
        server.kill9()


async def test_an_answer_sent_before_tls_is_not_believed(make: Make, authority: Authority) -> None:
    """An attacker who appends a forged bind success to the StartTLS answer gets no further."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            listener.settimeout(10)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                number = message_id(connection.recv(4096))
                connection.sendall(success(number, 0x78) + success(number + 1, 0x61))
                try:
                    while data := connection.recv(4096):
                        got.append(data)
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"ldap://127.0.0.1:{listener.getsockname()[1]}"
        directory = await make(urls=[url], starttls=True, ca=str(authority.ca_file), timeout="2s")
        answer = await directory.recipient(address("user0000"))
        await directory.close()
        await asyncio.to_thread(thread.join)
    assert isinstance(answer, CannotSay)
    assert "invalid messageId" in answer.reason
    assert BIND_PASSWORD.encode() not in b"".join(got)


async def test_a_queue_of_our_own_is_not_a_server_that_is_down(make: Make) -> None:
    """With one slow connection some look-ups end as "cannot say", and the server stays in use."""
    answers_s = 0.3
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        try:
            while request := await reader.read(4096):
                await asyncio.sleep(0 if is_bind(request) else answers_s)
                writer.write(success(message_id(request), 0x61 if is_bind(request) else 0x65))
        except OSError:
            pass
        finally:
            writer.close()
            served -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"ldap://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    directory = await make(urls=[url], pool=1, timeout="1s")
    answers = await asyncio.gather(*(directory.recipient(address(f"u{number}")) for number in range(8)))
    assert sum(isinstance(answer, NoSuch) for answer in answers) >= 2
    reasons = [answer.reason for answer in answers if isinstance(answer, CannotSay)]
    assert reasons
    assert all("raise directory.pool" in reason for reason in reasons)
    assert directory.troubles() == ()
    await directory.close()
    server.close()
    await until(lambda: not served, "the last connection to end")


async def test_unix_sockets_and_ipv6(
    make: Make, authority: Authority, server_certificate: CertificateFiles, tmp_path: Path
) -> None:
    """`ldapi://`, `ldap://[::1]` and `ldaps://[::1]` work, the last one verified by address."""
    server = Slapd(people=ordinary_people(2), tls=server_certificate)
    plain, encrypted = free_port(), free_port()
    path = str(tmp_path / "ldapi").replace("/", "%2F")
    urls = [f"ldapi://{path}", f"ldap://[::1]:{plain}", f"ldaps://[::1]:{encrypted}"]
    server.process.command[-1] += " " + " ".join(urls)
    server.start()
    try:
        for url in urls:
            directory = await make(urls=[url], ca=str(authority.ca_file))
            assert await directory.reachable() == ()
            assert isinstance(await directory.recipient(address("user0001")), Found)
    finally:
        server.kill9()


async def test_a_cold_start_from_the_snapshot(make: Make, pair: tuple[Slapd, Slapd], tmp_path: Path) -> None:
    """Written while LDAP was up, read by a new process while it is down: known users are found, nobody is denied."""
    writer = await make(pair[0], snapshot="1h", keeps_snapshot=True)
    await until((tmp_path / "directory-snapshot.jsonl").exists, "the snapshot")
    await writer.close()
    pair[0].stop()
    cold = await make(pair[0], snapshot="1h")
    for local in ("user0001", "FIRST0001.last", "user0001+x"):
        answer = await cold.recipient(address(local))
        assert isinstance(answer, Found)
        assert (answer.source, answer.record.mailbox) == (Source.SNAPSHOT, "user0001")
    assert record(await cold.recipient(address("forwarder"))).redirected
    twins = await cold.recipient(address("twins"))
    assert isinstance(twins, CannotSay)
    assert twins.alarm == "directory.ambiguous"
    assert isinstance(await cold.recipient(address("nobody")), CannotSay)
    assert cold.counters.snapshot == 4


async def test_the_snapshot_has_more_entries_than_a_server_gives_at_once(slapd: Slapd, tmp_path: Path) -> None:
    """All people come in pages, past OpenLDAP's usual limit of 500."""
    (tmp_path / "password").write_text(BIND_PASSWORD)
    settings = LdapSettings.model_validate(
        {
            "kind": "ldap",
            "urls": [slapd.url],
            "base": PEOPLE,
            "bind_dn": BIND_DN,
            "password_file": str(tmp_path / "password"),
        }
    )
    directory = Directory(settings, state_dir=tmp_path, clock=SystemClock())
    behind = directory._behind
    assert isinstance(behind, LdapDirectory)
    try:
        entries = await behind.all_entries()
    finally:
        await directory.close()
    assert len(entries) >= 500
    assert len({entry.dn for entry in entries}) == len(entries)


async def test_a_snapshot_that_cannot_be_written_is_reported(make: Make, tmp_path: Path) -> None:
    """The server is away when the first snapshot is due: `troubles` says so, and look-ups are not affected by it."""
    url = f"ldap://127.0.0.1:{free_port()}"
    directory = await make(urls=[url], snapshot="1h", keeps_snapshot=True)
    await until(lambda: any("snapshot" in line for line in directory.troubles()), "the trouble to be known")
    assert not (tmp_path / "directory-snapshot.jsonl").exists()


async def test_reachable_is_silent_when_all_is_well(
    make: Make, pair: tuple[Slapd, Slapd], authority: Authority
) -> None:
    """Two good servers, no line."""
    assert await (await make(*pair, starttls=True, ca=str(authority.ca_file))).reachable() == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bind_dn": "cn=wrong,dc=example,dc=edu"}, "check directory.bind_dn and directory.password_file"),
        ({"base": "ou=nowhere,dc=example,dc=edu"}, "check directory.base"),
        ({"bind_dn": None, "password_file": None}, "may not be read"),
        ({"recipient_filter": "(mailHostName={address})"}, "check directory.base, directory.recipient_filter"),
        ({"attributes": {"mailbox": "employeeNumber"}}, "has no attribute employeeNumber"),
        ({"starttls": True}, "check directory.ca"),
    ],
)
async def test_reachable_says_what_is_wrong_in_one_line(
    make: Make, pair: tuple[Slapd, Slapd], changes: dict[str, object], said: str
) -> None:
    """Each mistake in the settings is one line that names the server, the fault and the setting to look at."""
    (line,) = await (await make(pair[0], **changes)).reachable()
    assert line.startswith(pair[0].url)
    assert said in line
    assert "\n" not in line


async def test_reachable_names_the_server_that_is_away(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """One stopped, one hung: a line for each, within the time-out."""
    directory = await make(*pair, timeout="1s")
    pair[0].stop()
    pair[1].hang()
    started_s = time.monotonic()
    first, second = await directory.reachable()
    assert time.monotonic() - started_s < 20.0
    assert first.startswith(pair[0].url)
    assert "Connection refused" in first
    assert second.startswith(pair[1].url)
    assert "no answer within" in second


async def test_a_wrong_password_is_told_from_a_server_that_is_away(
    make: Make, pair: tuple[Slapd, Slapd], tmp_path: Path
) -> None:
    """The line names the account and the file setting, and never the password."""
    (tmp_path / "wrong").write_text("not-the-password")
    (line,) = await (await make(pair[0], password_file=str(tmp_path / "wrong"))).reachable()
    assert f"bind as {BIND_DN} refused: invalidCredentials" in line
    assert "not-the-password" not in line


async def test_a_new_person_is_known_after_the_negative_time(make: Make, pair: tuple[Slapd, Slapd]) -> None:
    """Adding somebody needs no restart."""
    clock = ManualClock()
    directory = await make(pair[1], clock=clock)
    assert isinstance(await directory.recipient(address("newcomer")), NoSuch)
    pair[1].add(Person(uid="newcomer", mail=("newcomer@example.edu",)))
    clock.advance(31)
    assert record(await directory.recipient(address("newcomer"))).mailbox == "newcomer"
