"""Who is at the other end of a session, computed once per connection."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientInfo:
    """The peer of one connection.

    `ip` and `port` are the client's own: taken from the socket, or from a PROXY header or XCLIENT of a listed network;
    `proxy_ip` is then the address of that trusted peer. `helo` is what the client called itself: printable, not
    believed. `ip` is '' for a UNIX socket. `tls` is the protocol and cipher, or ''.
    """

    ip: str
    port: int
    helo: str = ""
    protocol: str = "SMTP"
    tls: str = ""
    proxy_ip: str = ""
    listener: str = ""
