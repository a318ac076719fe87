"""Settings of `[limits]`: what one client, and all of them together, may take. Each has a default and a clear reply."""

from pydantic import Field

from mailfront.base.settings import DurationS, Settings, SizeBytes

KIB = 1024
MIB = 1024 * KIB


class LimitsSettings(Settings):
    """Limits of the listeners that take mail."""

    message_size: SizeBytes = Field(default=50 * MIB, ge=64 * KIB)
    """Largest message. More: `552 5.3.4`, at MAIL if the client says the size, else when it is exceeded."""
    recipients: int = Field(default=1000, ge=100)
    """Accepted recipients per message. More: `452 4.5.3` each. RFC 5321 asks for at least 100."""
    connections: int = Field(default=5000, ge=1)
    """Open client connections of all workers together. More: `421 4.7.0` instead of the greeting."""
    connections_per_ip: int = Field(default=50, ge=1)
    """Open connections from one address, all workers together. More: `421 4.7.0` instead of the greeting."""
    body_memory: SizeBytes = Field(default=128 * MIB, ge=MIB)
    """Message bodies held in memory per worker. What does not fit goes to a temporary file in `server.spool_dir`."""
    body_disk: SizeBytes = Field(default=8192 * MIB, ge=0)
    """Message bodies in temporary files, all workers together. Over it: `452 4.3.1`."""
    command_length: SizeBytes = Field(default=4 * KIB, ge=512, le=64 * KIB)
    """Longest command line with its line end. More: `500 5.5.2`, and the connection is closed."""
    bad_commands: int = Field(default=20, ge=1)
    """Unknown, malformed or misplaced commands per connection. More: `421 4.7.0`."""
    errors: int = Field(default=100, ge=1)
    """Refused commands of any kind per connection (unknown recipients too). More: `421 4.7.0`."""
    idle_commands: int = Field(default=100, ge=1)
    """EHLO, NOOP, RSET, VRFY and the like between two messages. More: `421 4.7.0`."""
    command_timeout: DurationS = Field(default=300.0, gt=0)
    """Until a whole command line is there. Longer: `421 4.4.2`."""
    data_timeout: DurationS = Field(default=60.0, gt=0)
    """How often the speed of an upload is looked at. Slower than `data_rate` over this time: `421 4.4.2`."""
    data_rate: SizeBytes = Field(default=KIB, ge=1)
    """Slowest upload that is tolerated, in bytes per second."""
    tls_timeout: DurationS = Field(default=30.0, gt=0)
    """For a TLS handshake. Longer: the connection is closed."""
    proxy_timeout: DurationS = Field(default=5.0, gt=0)
    """For the PROXY header, where one is required. Longer: the connection is closed."""
