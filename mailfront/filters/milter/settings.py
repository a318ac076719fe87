"""Settings of the kind `milter`."""

from pydantic import Field

from mailfront.base.settings import Settings
from mailfront.filters.addresses import ScannerAddresses


class MilterSettings(Settings):
    """Where the milter is."""

    address: ScannerAddresses
    """Where it listens: `"127.0.0.1:8891"` or `"unix:/run/opendkim/opendkim.sock"`. Several: copies of one milter,
    asked in turn; one that is down is passed over."""
    kept_connections: int = Field(default=4, ge=0, le=100)
    """How many idle connections per address each worker keeps for the next message."""
