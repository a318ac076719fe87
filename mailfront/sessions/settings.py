"""Settings of `[login]`, and the part of `[limits]` that is about sessions."""

import ipaddress
from typing import Literal

from pydantic import Field, model_validator

from mailfront.base.settings import DurationS, Settings
from mailfront.net.networks import Networks


class LoginSettings(Settings):
    """How people log in by IMAP, POP3 and ManageSieve."""

    auth: Literal["directory", "node"] = "directory"
    """Who judges the password. `directory`: LDAP, by a bind as the user, or the static file. `node`: the mailbox's
    home; only this offers XOAUTH2 and OAUTHBEARER, where the nodes do."""
    send: Literal["password", "master"] = "password"
    """How we log in at the node. `password`: with the user's own. `master`: as `storage.master_user`, for the user
    (SASL authorization identity); the nodes need not know the users' passwords then."""
    plaintext: Literal["never", "loopback", "always"] = "loopback"
    """Where a password may come without TLS. Elsewhere it is refused with `[PRIVACYREQUIRED]`. `loopback`: from this
    machine only."""
    timeout: DurationS = Field(default=60.0, ge=1, le=600)
    """From the connection to a login. Our own work does not count. Longer: the connection is closed."""
    attempts: int = Field(default=3, ge=1, le=100)
    """Failed logins per connection. After the last one it is closed."""
    bad_commands: int = Field(default=10, ge=1, le=1000)
    """Unknown or malformed commands per connection. More: it is closed."""
    failure_delay: DurationS = Field(default=3.0, ge=0, le=30)
    """How long after it was asked a wrong login is answered: a name that does not exist takes as long as a wrong
    password. With `auth = "node"` it must be longer than the nodes take to say no (Dovecot's `auth_failure_delay`: 2 to
    2.5 s); else the time tells who exists."""
    shared_addresses: Networks = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
    """Networks whose addresses stand for many people: webmail servers (one on this machine is listed by itself), a
    gateway of the campus. Failed logins from there slow down the account that was tried, not the address. Elsewhere
    they slow down both, up to 15 s."""
    hold: DurationS = Field(default=20.0, ge=0, le=120)
    """How long a login waits for a home that is down or has too many logins to take. Then: temporary error."""
    held: int = Field(default=1000, ge=1)
    """Most logins that wait so, per worker and node. More: temporary error at once."""
    node_timeout: DurationS = Field(default=30.0, ge=1, le=300)
    """For the login at the node, from the connection to its answer. Longer: temporary error."""

    reload_grace: DurationS = Field(default=3600.0, ge=0)
    """How long sessions may go on after a reload, in the processes that they began in. Then they are let go."""

    @model_validator(mode="after")
    def _somebody_judges(self) -> "LoginSettings":
        if self.auth == "node" and self.send == "master":
            raise ValueError(
                'auth = "node" with send = "master": nobody would check the password; use auth = "directory", or '
                'send = "password"'
            )
        return self


class SessionLimits(Settings):
    """Limits of the listeners that people log in to; counted apart from those that take mail."""

    sessions: int = Field(default=20_000, ge=1)
    """Open IMAP, POP3 and ManageSieve connections of all workers together. More: refused in the protocol's words."""
    sessions_per_ip: int = Field(default=1000, ge=1)
    """Open ones from one address. Webmail servers and whole offices behind one address need many."""
