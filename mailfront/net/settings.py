"""Settings of `[[listen]]`, `[tls]` and `[node_tls]`.

Whether an address can be bound and a file can be read is asked by `config check` and at start, not by the models.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mailfront.base.settings import FilePath, Settings
from mailfront.net.networks import Networks
from mailfront.net.sockets import UnixAddress, parse_listen_address

_LATER_ROLES = ("submission",)
_SESSION_ROLES = ("imap", "pop3", "sieve")
_ADMIN_ADDRESS = "127.0.0.1:9465"


class ListenSettings(Settings):
    """One address that we listen on, and what is spoken there."""

    role: Literal["smtp", "lmtp", "imap", "pop3", "sieve", "admin"]
    """`smtp`: mail comes in. `lmtp`: the same with one answer per recipient. `imap`, `pop3`, `sieve`: people log in,
    and are passed on to the node that has their mailbox. `admin`: `/metrics` and `/healthz`."""
    address: str = ""
    """`"0.0.0.0:25"`, `"[::]:25"` (IPv6 only) or `"unix:/path"`. An `admin` listener without one listens on
    `127.0.0.1:9465`."""
    tls: Literal["off", "starttls", "implicit"] = "off"
    """`starttls`: offered on demand. `implicit`: TLS from the first byte. Both need `[tls]`."""
    proxy_protocol: Networks = ()
    """Networks of load balancers. Their connections must begin with a PROXY header (v1 or v2); a header from anybody
    else is refused."""
    xclient: Networks = ()
    """Networks whose XCLIENT and XFORWARD are believed."""
    bare_newline: Literal["normalize", "reject"] = "normalize"
    """A line of a message that ends in a bare LF or CR: mend it, or refuse the message."""
    dsn: bool = False
    """Offer delivery status notifications (RFC 3461) to everybody here."""
    socket_mode: str = Field(default="0660", pattern=r"^0?[0-7]{3}$")
    """Permissions of a UNIX socket, in octal."""

    @field_validator("role", mode="before")
    @classmethod
    def _role_of_this_version(cls, value: Any) -> Any:
        if value in _LATER_ROLES:
            raise ValueError(
                f'role "{value}" is not in this version; use "smtp", "lmtp", "imap", "pop3", "sieve" or "admin"'
            )
        return value

    @field_validator("address")
    @classmethod
    def _readable_address(cls, value: str) -> str:
        if value:
            parse_listen_address(value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_address(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("role") == "admin" and "address" not in data:
            return {**data, "address": _ADMIN_ADDRESS}
        return data

    @model_validator(mode="after")
    def _what_fits_together(self) -> "ListenSettings":
        if not self.address:
            raise ValueError('address is missing; write one such as "0.0.0.0:25"')
        on_unix_socket = isinstance(parse_listen_address(self.address), UnixAddress)
        if self.role == "admin" and (self.tls != "off" or self.proxy_protocol or self.xclient or self.dsn):
            raise ValueError("an admin listener has no tls, proxy_protocol, xclient or dsn")
        if self.role in _SESSION_ROLES and (self.xclient or self.dsn):
            raise ValueError(f'xclient and dsn are for mail; a listener with the role "{self.role}" has neither')
        if self.role == "admin" and on_unix_socket:
            raise ValueError('an admin listener needs a TCP address, such as "127.0.0.1:9465"')
        if on_unix_socket and (self.tls != "off" or self.proxy_protocol or self.xclient):
            raise ValueError("a UNIX socket has no tls, proxy_protocol or xclient: its peer has no network address")
        return self


class CertificateSettings(Settings):
    """One certificate with its key, for the names that it is shown to."""

    names: tuple[str, ...] = Field(default=(), strict=False, max_length=100)
    """Server names that clients ask for (SNI). Empty: for everybody else; exactly one certificate has none."""
    certificate: FilePath
    """PEM file: the certificate, then the intermediate ones."""
    key: FilePath
    """PEM file with the private key."""

    @field_validator("names")
    @classmethod
    def _lower_case(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower().rstrip(".") for name in value)


class TlsSettings(Settings):
    """Certificates that we show to clients. TLS 1.2 is the oldest that is spoken."""

    certificate: FilePath | Annotated[tuple[CertificateSettings, ...], Field(strict=False)]
    """PEM file: the certificate, then the intermediate ones. Or, for several: `[[tls.certificate]]` tables."""
    key: FilePath | None = None
    """PEM file with the private key."""

    @model_validator(mode="after")
    def _one_default(self) -> "TlsSettings":
        if not isinstance(self.certificate, tuple):
            if self.key is None:
                raise ValueError("key is missing; it is the PEM file with the private key")
            return self
        if self.key is not None:
            raise ValueError("with [[tls.certificate]] tables each has its own key; remove tls.key")
        if sum(not each.names for each in self.certificate) != 1:
            raise ValueError("exactly one [[tls.certificate]] must be without names: it is for everybody else")
        names = [name for each in self.certificate for name in each.names]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(doubled)}: named by more than one [[tls.certificate]]")
        return self

    @property
    def certificates(self) -> tuple[CertificateSettings, ...]:
        """All certificates in one form; exactly one has no names."""
        if isinstance(self.certificate, tuple):
            return self.certificate
        assert self.key is not None
        return (CertificateSettings(certificate=self.certificate, key=self.key),)


class NodeTlsSettings(Settings):
    """How we trust the storage nodes when we speak TLS to them."""

    ca: FilePath | None = None
    """PEM file with the authorities that may sign the nodes' certificates. Absent: those of the system."""
    verify: bool = True
    """Check the certificate and its name. `false` gives encryption without knowing to whom; never in production."""
    client_certificate: FilePath | None = None
    """PEM file with the certificate that we show to the nodes."""
    client_key: FilePath | None = None
    """PEM file with its private key."""

    @model_validator(mode="after")
    def _both_or_none(self) -> "NodeTlsSettings":
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("client_certificate and client_key go together: set both or none")
        return self
