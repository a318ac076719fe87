"""Fixtures of the whole suite: real servers, started once per test process when the first test asks for them.

Tests share these servers. So each test uses users and tokens of its own, and
looks only for those. A test may stop, kill or hang a shared node: afterwards it
is brought back here.
"""

import signal
from collections.abc import Iterator

import dns.resolver
import pytest
from hypothesis import HealthCheck, settings

from tests.support import processes
from tests.support.certificates import Authority, CertificateFiles
from tests.support.clamd import Clamd
from tests.support.cyrus import CyrusNode
from tests.support.dovecot import TINY, DovecotNode, start_together
from tests.support.ldap import Slapd
from tests.support.processes import new_directory
from tests.support.rspamd import Rspamd
from tests.support.spamd import Spamd

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

_shared_nodes: list[DovecotNode] = []


def pytest_configure(config: pytest.Config) -> None:
    """End on SIGTERM as on Ctrl-C: fixtures are torn down, servers stop. Let ldap3 use two old names."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("filterwarnings", "ignore:(tagMap|typeMap) is deprecated:DeprecationWarning")
    config.addinivalue_line("filterwarnings", r"ignore:ssl\.match_hostname\(\) is deprecated:DeprecationWarning")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the servers' files, unless something failed: then their logs are still wanted."""
    if not session.testsfailed:
        processes.remove_run_directory()


@pytest.fixture(scope="session", autouse=True)
def _no_name_servers_of_this_machine() -> Iterator[None]:
    """No test asks a name server outside: one that does not name its own gets an error."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> None:
            raise AssertionError("a test reads /etc/resolv.conf; give the resolver a server of the test's own")

        patch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", refuse)
        yield


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The certificate authority that all test servers' certificates come from."""
    return Authority(new_directory("certificates"))


@pytest.fixture(scope="session")
def server_certificate(authority: Authority) -> CertificateFiles:
    """A certificate for localhost, 127.0.0.1 and ::1."""
    return authority.issue()


@pytest.fixture(scope="session")
def three_nodes(server_certificate: CertificateFiles) -> Iterator[tuple[DovecotNode, DovecotNode, DovecotNode]]:
    """store1, store2, store3: real Dovecot servers where every name is a user; those of TINY have a quota of 10 KB."""
    nodes = tuple(
        DovecotNode(f"store{number}", tls=server_certificate, quotas=dict.fromkeys(TINY, "*:storage=10K"))
        for number in (1, 2, 3)
    )
    _shared_nodes.extend(nodes)
    start_together(nodes)
    yield nodes[0], nodes[1], nodes[2]
    _shared_nodes.clear()
    for node in nodes:
        node.kill9()  # an orderly end takes Dovecot a second


@pytest.fixture(autouse=True)
def _bring_nodes_back(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "three_nodes" in request.fixturenames:
        for node in _shared_nodes:
            if node.running:
                node.resume()
            else:
                node.start()


@pytest.fixture(scope="session")
def slapd(server_certificate: CertificateFiles) -> Iterator[Slapd]:
    """OpenLDAP with 500 ordinary people and the special ones, with StartTLS and ldaps."""
    server = Slapd(tls=server_certificate)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rspamd() -> Iterator[Rspamd]:
    """A real rspamd without a network."""
    server = Rspamd()
    server.start()
    yield server
    server.kill9()


@pytest.fixture(scope="session")
def clamd() -> Iterator[Clamd]:
    """A real clamd with signatures of our own."""
    server = Clamd()
    server.start()
    yield server
    server.kill9()


@pytest.fixture(scope="session")
def spamd() -> Iterator[Spamd]:
    """A real SpamAssassin without a network."""
    server = Spamd()
    server.start()
    yield server
    server.kill9()


@pytest.fixture(scope="session")
def cyrus_node(server_certificate: CertificateFiles) -> Iterator[CyrusNode]:
    """A real Cyrus server; anna and bob can log in."""
    node = CyrusNode("cyrus1", tls=server_certificate)
    node.start()
    yield node
    node.stop()
