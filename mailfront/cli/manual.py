"""The manual page of all commands, made from the commands. A test compares it with `deploy/man/mailfront.1`.

Run `python -m mailfront.cli.manual > deploy/man/mailfront.1` after changing a command.
"""

import inspect
import re
import sys
from collections.abc import Iterator

import click

from mailfront.cli.main import cli
from mailfront.cli.reference import EXIT_CODES, SHARED_OPTIONS, commands

_HEAD = r""".\" Made from the program by python -m mailfront.cli.manual; edit the commands, not the page.
.TH MAILFRONT 1 "" mailfront "Mail cluster front end"
.SH NAME
mailfront \- front end of a mail cluster
.SH SYNOPSIS
.B mailfront
.RB [ \-c
.IR FILE ]
.I command
.RI [ options ]
.SH DESCRIPTION
"""
_TAIL = r""".SH FILES
.TP
.I /etc/mailfront/mailfront.toml
The configuration file, unless
.B \-c
names another one. It also says where the running server is found.
.SH SEE ALSO
.BR postqueue (1),
.BR postsuper (1),
.BR mailq (1)
"""


def render() -> str:
    """The whole page, in the man macros."""
    context = cli.make_context("mailfront", [], resilient_parsing=True)
    parts = [_HEAD, _paragraphs(cli.help or ""), ".SH OPTIONS\n"]
    parts += [_tagged(r"\fB\-c\fR, \fB\-\-config\fR \fIFILE\fR", "The configuration file. It may stand anywhere.")]
    parts += [_tagged(r"\fB\-\-json\fR", "Print JSON. Every command that reads has it.")]
    parts += [".SH COMMANDS\n", *_blocks(context), ".SH EXIT STATUS\n"]
    parts += [_tagged(rf"\fB{code}\fR", meaning) for code, meaning in EXIT_CODES]
    return "".join([*parts, _TAIL])


def _blocks(context: click.Context) -> Iterator[str]:
    for command, inner in commands(cli, context):
        pieces = [piece for parameter in command.params for piece in parameter.get_usage_pieces(inner)]
        name = inner.command_path.removeprefix("mailfront ")
        yield f'.SS "{_escaped(" ".join([name, *dict.fromkeys(pieces)]))}"\n'
        yield _paragraphs(inspect.cleandoc(command.help or ""))
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in (*SHARED_OPTIONS, "as_json") and option.help:
                record = option.get_help_record(inner)
                assert record is not None
                yield _tagged(rf"\fB{_escaped(record[0])}\fR", record[1])


def _tagged(tag: str, text: str) -> str:
    return f".TP\n{tag}\n{_text(text)}\n"


def _paragraphs(text: str) -> str:
    return ".PP\n".join(f"{_text(' '.join(each.split()))}\n" for each in re.split(r"\n\s*\n", text))


def _text(text: str) -> str:
    """Running text: backquotes become bold, and no line begins with a control character of roff."""
    escaped = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", _escaped(text))
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")


if __name__ == "__main__":
    sys.stdout.write(render())
