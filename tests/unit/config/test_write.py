"""`config show` prints TOML that means the same."""

import tomllib

import pytest

from mailfront.config.load import parse
from mailfront.config.write import document_to_toml, to_toml
from tests.unit.config.test_load import GOOD, PATH


def test_what_is_written_reads_back_the_same() -> None:
    """Every section, list and short form survives."""
    text = GOOD + '[tls]\n[[tls.certificate]]\ncertificate = "c.pem"\nkey = "k.pem"\n'
    text += '[[tls.certificate]]\nnames = ["a.example.edu"]\ncertificate = "c.pem"\nkey = "k.pem"\n'
    text += '[[listen]]\nrole = "lmtp"\naddress = "127.0.0.1:24"\nxclient = ["10.0.0.0/8", "2001:db8::/32"]\n'
    configuration = parse(text, PATH)
    assert parse(to_toml(configuration), PATH) == configuration


@pytest.mark.parametrize("value", ['quote " and \\', "line\nend", "\x7f", "ünï", "tab\t", "\u2028"])
def test_any_text_is_written_as_valid_toml(value: str) -> None:
    """Nothing in a value can end it early."""
    assert tomllib.loads(document_to_toml({"section": {"name": value}})) == {"section": {"name": value}}
