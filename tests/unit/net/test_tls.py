"""TLS contexts: which certificate is shown, what is checked, how files are renewed."""

import ssl
from pathlib import Path

import pytest
import trustme

from mailfront.base.errors import ConfigError
from mailfront.net.settings import NodeTlsSettings, TlsSettings
from mailfront.net.tls import ServerTls, describe, node_context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that signs the certificates of this file."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def write_pair(folder: Path, authority: trustme.CA, name: str, stem: str = "") -> tuple[str, str]:
    """A certificate for a name, as two files."""
    issued = authority.issue_cert(name, key_type=trustme.KeyType.ECDSA)
    certificate, key = folder / f"{stem or name}.pem", folder / f"{stem or name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return str(certificate), str(key)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Run a handshake in memory. Raises what the client or the server raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
        if near.version() and far.version() and near.cipher() and far.cipher():
            break
    near.do_handshake()
    far.do_handshake()
    return near, far


def shown_name(server: ssl.SSLContext, authority: trustme.CA, name: str) -> str:
    """The name in the certificate that a client asking for `name` sees."""
    client = ssl.create_default_context()
    client.check_hostname = False
    authority.configure_trust(client)
    near, _ = shake_hands(server, client, name)
    certificate = near.getpeercert()
    assert certificate is not None
    return str(certificate["subjectAltName"][0][1])


def test_each_client_sees_the_certificate_of_the_name_it_asks_for(tmp_path: Path, authority: trustme.CA) -> None:
    """Names have their own certificates, in any case; everybody else sees the one without names."""
    pairs = {name: write_pair(tmp_path, authority, name) for name in ("mx1.example.edu", "mx2.example.edu")}
    tls = ServerTls(
        TlsSettings.model_validate(
            {
                "certificate": [
                    {"certificate": pairs["mx1.example.edu"][0], "key": pairs["mx1.example.edu"][1]},
                    {
                        "names": ["mx2.example.edu", "smtp.example.edu"],
                        "certificate": pairs["mx2.example.edu"][0],
                        "key": pairs["mx2.example.edu"][1],
                    },
                ]
            }
        )
    )
    assert shown_name(tls.context, authority, "MX2.example.edu") == "mx2.example.edu"
    assert shown_name(tls.context, authority, "smtp.example.edu") == "mx2.example.edu"
    assert shown_name(tls.context, authority, "mx1.example.edu") == "mx1.example.edu"
    assert shown_name(tls.context, authority, "stranger.example.org") == "mx1.example.edu"


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(tmp_path: Path, authority: trustme.CA) -> None:
    """reload() changes what new handshakes see, all or nothing."""
    certificate, key = write_pair(tmp_path, authority, "old.example.edu", "current")
    tls = ServerTls(TlsSettings.model_validate({"certificate": certificate, "key": key}))
    write_pair(tmp_path, authority, "new.example.edu", "current")
    tls.reload()
    assert shown_name(tls.context, authority, "x") == "new.example.edu"
    Path(key).write_text("garbage")
    with pytest.raises(ConfigError, match="not a PEM certificate and key"):
        tls.reload()
    assert shown_name(tls.context, authority, "x") == "new.example.edu"


def test_files_that_cannot_be_used_are_named(tmp_path: Path, authority: trustme.CA) -> None:
    """Missing, mismatched and password-protected files each get their own reason, all at once."""
    certificate, key = write_pair(tmp_path, authority, "a.example.edu")
    _, other_key = write_pair(tmp_path, authority, "b.example.edu")
    locked = tmp_path / "locked.key"
    locked.write_text(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
        "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"
    )
    with pytest.raises(ConfigError) as caught:
        ServerTls(
            TlsSettings.model_validate(
                {
                    "certificate": [
                        {"certificate": str(tmp_path / "absent.pem"), "key": key},
                        {"names": ["b"], "certificate": certificate, "key": other_key},
                        {"names": ["c"], "certificate": certificate, "key": str(locked)},
                    ]
                }
            )
        )
    missing, mismatched, protected = caught.value.problems
    assert "absent.pem: cannot be read: No such file" in missing
    assert "is not the key of" in mismatched
    assert "is protected by a password" in protected


def test_old_protocol_versions_are_not_spoken(tmp_path: Path, authority: trustme.CA) -> None:
    """TLS 1.2 is the oldest, for us as server and as client."""
    certificate, key = write_pair(tmp_path, authority, "mx1.example.edu")
    tls = ServerTls(TlsSettings.model_validate({"certificate": certificate, "key": key}))
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert node_context(NodeTlsSettings()).minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls.context.options & ssl.OP_NO_RENEGOTIATION


def test_a_node_is_checked_unless_verify_is_off(tmp_path: Path, authority: trustme.CA) -> None:
    """A wrong name and a foreign authority end the handshake; `verify = false` takes any certificate."""
    certificate, key = write_pair(tmp_path, authority, "store1.example.edu")
    server = ServerTls(TlsSettings.model_validate({"certificate": certificate, "key": key})).context
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    trusting = node_context(NodeTlsSettings.model_validate({"ca": str(ca)}))
    near, far = shake_hands(server, trusting, "store1.example.edu")
    assert describe(near).startswith("TLSv1.3 TLS_")
    assert describe(far) == describe(near)
    assert describe(None) == ""
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        shake_hands(server, trusting, "store2.example.edu")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, node_context(NodeTlsSettings()), "store1.example.edu")
    shake_hands(server, node_context(NodeTlsSettings(verify=False)), "store2.example.edu")


def test_a_client_certificate_is_shown_to_nodes_that_ask(tmp_path: Path, authority: trustme.CA) -> None:
    """A node that wants to know us sees our certificate; unusable files are named."""
    certificate, key = write_pair(tmp_path, authority, "store1.example.edu")
    own_certificate, own_key = write_pair(tmp_path, authority, "mx1.example.edu")
    server = ServerTls(TlsSettings.model_validate({"certificate": certificate, "key": key})).context
    server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    settings = {"ca": str(ca), "client_certificate": own_certificate, "client_key": own_key}
    shake_hands(server, node_context(NodeTlsSettings.model_validate(settings)), "store1.example.edu")
    with pytest.raises(ConfigError, match="is not the key of"):
        node_context(NodeTlsSettings.model_validate({**settings, "client_key": key}))
    with pytest.raises(ConfigError, match=r"check node_tls\.ca"):
        node_context(NodeTlsSettings.model_validate({"ca": str(tmp_path / "absent.pem")}))
    with pytest.raises(ConfigError, match="not a PEM file"):
        node_context(NodeTlsSettings.model_validate({"ca": key}))
