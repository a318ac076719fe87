"""Fixtures that several modules use with servers of their own."""

from collections.abc import Iterator

import pytest

from tests.support.session_client import Clients
from tests.support.session_cluster import SessionCluster


@pytest.fixture
def clients(cluster: SessionCluster) -> Iterator[Clients]:
    """Makes clients of the module's `cluster`, and closes them."""
    with Clients(cluster) as made:
        yield made
