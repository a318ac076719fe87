"""Perl's Mail::DKIM (Debian's libmail-dkim-perl), which SpamAssassin uses: signs with DKIM, seals with ARC.

An implementation of its own, neither ours nor dkimpy's: what it makes must pass here.
"""

import subprocess
import tempfile
from pathlib import Path

_SCRIPT = """
use strict; use warnings;
use Mail::DKIM::ARC::Signer; use Mail::DKIM::Signer; use Mail::DKIM::PrivateKey;
my ($what, $key_file, $domain, $selector, $canonicalization, $service) = @ARGV;
my $key = Mail::DKIM::PrivateKey->load(File => $key_file);
my %common = (Domain => $domain, Selector => $selector, Key => $key);
my $signer = $what eq 'dkim'
    ? Mail::DKIM::Signer->new(Algorithm => 'rsa-sha256', Method => $canonicalization, %common)
    : Mail::DKIM::ARC::Signer->new(Algorithm => 'rsa-sha256', Chain => $what, SrvId => $service, %common);
binmode STDIN;
while (my $line = <STDIN>) { $signer->PRINT($line) }
$signer->CLOSE;
if ($what eq 'dkim') { print $signer->signature->as_string, "\\015\\012" }
else {
    die 'not sealed: ' . $signer->{result} . ' ' . ($signer->{details} // '') unless $signer->{result} eq 'sealed';
    print map { "$_\\015\\012" } $signer->as_strings;
}
"""


def dkim_signed(message: bytes, key_pem: bytes, *, domain: str, selector: str, canonicalization: str) -> bytes:
    """The message with a DKIM signature in front."""
    return _run("dkim", message, key_pem, domain, selector, canonicalization, "-") + message


def arc_sealed(message: bytes, key_pem: bytes, *, domain: str, selector: str, chain: str, service: str) -> bytes:
    """The message with an ARC set in front. `chain` is what it says of the sets before: none, pass, fail. The results
    that it keeps are those that `service` has written into the message."""
    return _run(chain, message, key_pem, domain, selector, "-", service) + message


def _run(what: str, message: bytes, key_pem: bytes, *arguments: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder) / "key.pem"
        key_file.write_bytes(key_pem)
        command = ["perl", "-e", _SCRIPT, what, str(key_file), *arguments]
        done = subprocess.run(command, input=message, capture_output=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"Mail::DKIM: {done.stderr.decode()}")
    return done.stdout
