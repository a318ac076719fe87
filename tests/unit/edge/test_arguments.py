"""The arguments of MAIL and RCPT."""

import pytest

from mailfront.edge.arguments import MailArguments, read_mail, read_rcpt
from mailfront.mail.address import Address
from mailfront.mail.envelope import BodyType, RecipientOptions
from mailfront.mail.reply import Reply


def code(read: object) -> str:
    assert isinstance(read, Reply)
    return f"{read.code} {read.enhanced}"


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        ("FROM:<a@b.c>", Address("a", "b.c")),
        ("from:<a@B.C>", Address("a", "b.c")),
        ("FROM: <a@b.c>", Address("a", "b.c")),
        ("FROM:<a@b.c> ", Address("a", "b.c")),
        ("FROM:<@x,@y:a@b.c>", Address("a", "b.c")),
        ('FROM:<"a>b"@b.c>', Address("a>b", "b.c")),
        ('FROM:<"a\\"b"@b.c>', Address('a"b', "b.c")),
        ("FROM:<a@[192.0.2.1]>", Address("a", "[192.0.2.1]")),
        ("FROM:<>", None),
    ],
)
def test_the_reverse_path(argument: str, address: Address | None) -> None:
    """An address in angle brackets, or nothing for the null sender."""
    read = read_mail(argument, extended=True, dsn=False)
    assert isinstance(read, MailArguments)
    assert read.reverse_path == address


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        (None, "501 5.5.4"),
        ("", "501 5.5.4"),
        ("TO:<a@b.c>", "501 5.5.4"),
        ("FROM:a@b.c", "501 5.5.4"),
        ("FROM:<a@b.c", "501 5.5.4"),
        ("FROM:<", "501 5.5.4"),
        ("FROM:<a@b.c>SIZE=1", "501 5.5.4"),
        ('FROM:<"a@b.c>', "501 5.5.4"),
        ("FROM:<a b@c>", "553 5.1.7"),
        ("FROM:<a@b.c(x)>", "553 5.1.7"),
        ("FROM:<a\rb@c>", "553 5.1.7"),
        ("FROM:<postmaster>", "553 5.1.7"),
        ("FROM:<\u00e4@b.c>", "553 5.6.7"),
        ("FROM:<\udcff@b.c> SMTPUTF8", "501 5.5.2"),
        ("FROM:<a@b.c> SIZE=", "501 5.5.4"),
        ("FROM:<a@b.c> SIZE=-1", "501 5.5.4"),
        ("FROM:<a@b.c> SIZE=\u0663", "501 5.5.4"),
        ("FROM:<a@b.c> SIZE=" + "9" * 21, "501 5.5.4"),
        ("FROM:<a@b.c> SIZE=1 size=2", "501 5.5.4"),
        ("FROM:<a@b.c> SMTPUTF8=yes", "555 5.5.4"),
        ("FROM:<a@b.c> BODY", "501 5.5.4"),
        ("FROM:<a@b.c> AUTH=<>", "555 5.5.4"),
        ("FROM:<a@b.c> MT-PRIORITY=3", "555 5.5.4"),
        ("FROM:<a@b.c> =x", "501 5.5.4"),
        ("FROM:<a@b.c> \x01", "501 5.5.4"),
        ("FROM:<a@b.c> ENVID=a", "555 5.5.4"),
    ],
)
def test_what_mail_refuses(argument: str | None, answer: str) -> None:
    """Each fault has its code; nothing raises."""
    assert code(read_mail(argument, extended=True, dsn=False)) == answer


def test_parameters_of_mail() -> None:
    """Keywords in any case, values as written."""
    read = read_mail("FROM:<a@b.c> size=7 Body=8bitmime SMTPUTF8 RET=Full ENVID=a+3Db", extended=True, dsn=True)
    assert isinstance(read, MailArguments)
    assert (read.size_bytes, read.body_type, read.smtputf8) == (7, BodyType.EIGHTBITMIME, True)
    assert (read.ret, read.envid) == ("Full", "a+3Db")


def test_no_parameters_without_ehlo() -> None:
    """A client that said HELO has no parameters."""
    assert code(read_mail("FROM:<a@b.c> SIZE=1", extended=False, dsn=False)) == "501 5.5.4"
    assert code(read_rcpt("TO:<a@b.c> NOTIFY=NEVER", extended=False, dsn=True, smtputf8=False)) == "501 5.5.4"


def test_recipients() -> None:
    """<postmaster> needs no domain; the null path is no recipient."""
    read = read_rcpt("TO:<Postmaster>", extended=True, dsn=False, smtputf8=False)
    assert read == (Address("Postmaster", ""), RecipientOptions())
    assert code(read_rcpt("TO:<>", extended=True, dsn=False, smtputf8=False)) == "553 5.1.3"
    assert code(read_rcpt("TO:<\u00e4@b.c>", extended=True, dsn=False, smtputf8=False)) == "553 5.6.7"
    assert not isinstance(read_rcpt("TO:<\u00e4@b.c>", extended=True, dsn=False, smtputf8=True), Reply)


def test_an_orcpt_in_utf8_needs_smtputf8() -> None:
    """RFC 6533: raw UTF-8 in ORCPT only where the message uses SMTPUTF8."""
    argument = "TO:<a@b.c> ORCPT=utf-8;\u00e4@b.c"
    assert code(read_rcpt(argument, extended=True, dsn=True, smtputf8=False)) == "501 5.5.4"
    assert not isinstance(read_rcpt(argument, extended=True, dsn=True, smtputf8=True), Reply)


def test_a_long_quoted_string_is_read_in_linear_time() -> None:
    """No argument makes the pattern backtrack."""
    for argument in ("FROM:<" + '"' * 4001, "FROM:<" + '"\\' * 2000, "FROM:<" + '"a"' * 1300 + " "):
        assert code(read_mail(argument, extended=True, dsn=False)) == "501 5.5.4"
