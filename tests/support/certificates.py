"""Test certificates: one authority, server certificates below it, written to files.

Nothing here is a secret: keys are made anew for each test run.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """A certificate with its chain, and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority; `ca_file` is what clients trust."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.ca_file = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, *names: str, file_name: str = "server") -> CertificateFiles:
        """Write a certificate for host names and addresses; without names, for this machine's loopback."""
        issued = self._authority.issue_cert(*(names or ("localhost", "127.0.0.1", "::1")))
        files = CertificateFiles(
            certificate=self._directory / f"{file_name}.pem", key=self._directory / f"{file_name}.key"
        )
        files.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(files.key))
        # Some servers read their key after they dropped root.
        files.key.chmod(0o644)
        return files

    def client_context(self) -> ssl.SSLContext:
        """Return a verifying context that trusts this authority only."""
        return ssl.create_default_context(cafile=str(self.ca_file))
