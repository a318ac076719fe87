"""Settings of `[delivery]`: how mail is handed to the storage nodes."""

from pydantic import Field

from mailfront.base.settings import DurationS, Settings


class DeliverySettings(Settings):
    """How mail is handed to the storage nodes over LMTP."""

    connect_timeout: DurationS = Field(default=5.0, gt=0, le=60)
    """For the TCP connection, and again for the TLS handshake."""
    reply_timeout: DurationS = Field(default=30.0, gt=0, le=600)
    """For the greeting and for each reply before the message's data."""
    body_timeout: DurationS = Field(default=60.0, gt=0, le=600)
    """How long a node may take none of a message's data. A slow node that makes progress is waited for."""
    final_timeout: DurationS = Field(default=600.0, gt=0, le=3600)
    """For each reply after the final dot. Only after this is the outcome given up as unknown."""
    idle_timeout: DurationS = Field(default=60.0, gt=0, le=3600)
    """An unused connection to a node is closed after this. Dovecot closes it by itself after 5 minutes."""
    connection_lifetime: DurationS = Field(default=600.0, gt=0)
    """A connection is not used for another message after this."""
    connection_messages: int = Field(default=1000, ge=1)
    """A connection is closed after this many messages."""
    strict_8bit: bool = False
    """Refuse 8-bit messages (`550 5.6.3`) for a node that does not offer 8BITMIME, instead of sending them as they
    are."""
