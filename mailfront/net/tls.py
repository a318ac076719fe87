"""TLS contexts: what we show to clients, and how we check the storage nodes.

TLS 1.2 is the oldest version, compression and renegotiation are off, session tickets are on (they resume at the worker
that issued them; another worker makes a full handshake). Which certificate a client sees depends on the name that it
asks for, by a fixed table; an unknown name gets the default one. Reading files happens in `load`, never in a handshake.

`ServerTls.reload` takes new files or none: if one cannot be used, all old ones stay in force.
"""

import ssl
from collections.abc import Callable
from pathlib import Path

from mailfront.base.errors import ConfigError
from mailfront.net.settings import NodeTlsSettings, TlsSettings


class ServerTls:
    """The certificates of the listeners. `context` is for new connections; sessions keep the one they began with."""

    def __init__(self, settings: TlsSettings) -> None:
        """Read all certificates. Raises ConfigError with one line per file that cannot be used."""
        self._settings = settings
        self._context = _load(settings)

    @property
    def context(self) -> ssl.SSLContext:
        """What a handshake that begins now must use."""
        return self._context

    def reload(self) -> None:
        """Read the files again, as after a renewal. Raises ConfigError; then the old ones stay in force."""
        self._context = _load(self._settings)


def _load(settings: TlsSettings) -> ssl.SSLContext:
    problems: list[str] = []
    default: ssl.SSLContext | None = None
    by_name: dict[str, ssl.SSLContext] = {}
    for each in settings.certificates:
        context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        problem = _load_pair(context, each.certificate, each.key)
        if problem:
            problems.append(problem)
        elif each.names:
            by_name.update(dict.fromkeys(each.names, context))
        else:
            default = context
    if problems or default is None:
        raise ConfigError(tuple(problems) or ("tls.certificate: no certificate for everybody else",))
    if by_name:
        default.sni_callback = _chooser(by_name)
    return default


def _chooser(by_name: dict[str, ssl.SSLContext]) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    def choose(tls: ssl.SSLObject, server_name: str | None, _context: ssl.SSLContext) -> None:
        if server_name is not None and (context := by_name.get(server_name.lower())) is not None:
            tls.context = context

    return choose


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> str:
    """Load a certificate and its key. Returns what is wrong and what to do, or ''."""
    for path in (certificate, key):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            return f"{path}: cannot be read: {error.strerror}; check the path, its owner and mode"
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{key}: is not the key of {certificate}; use the key that the certificate was made with"
        return f"{certificate}, {key}: not a PEM certificate and key ({error.reason or error})"
    except _EncryptedKey:
        return f"{key}: is protected by a password; a server needs a key without one"
    return ""


class _EncryptedKey(Exception):
    """The key file asks for a password."""


def _refuse_password() -> str:
    raise _EncryptedKey


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def node_context(settings: NodeTlsSettings) -> ssl.SSLContext:
    """The context for connections to storage nodes; give `server_hostname` with each connection.

    The certificate and its name are checked unless `verify = false` is written. Raises ConfigError.
    """
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(settings.ca)
        except ssl.SSLError as error:
            raise ConfigError((f"{settings.ca}: not a PEM file with certificates ({error.reason})",)) from error
        except OSError as error:
            raise ConfigError((f"{settings.ca}: cannot be read: {error.strerror}; check node_tls.ca",)) from error
    if settings.client_certificate is not None and settings.client_key is not None:
        problem = _load_pair(context, settings.client_certificate, settings.client_key)
        if problem:
            raise ConfigError((problem,))
    return context


def describe(tls: ssl.SSLObject | ssl.SSLSocket | None) -> str:
    """Version and cipher of a connection, for `Received`, logs and `ClientInfo`; '' without TLS."""
    cipher = tls.cipher() if tls is not None else None
    return f"{tls.version()} {cipher[0]}" if tls is not None and cipher is not None else ""
