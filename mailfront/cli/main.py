"""The command `mailfront`: where the nouns come together."""

import click

from mailfront import __version__
from mailfront.cli.completion import completion
from mailfront.cli.config import config
from mailfront.cli.conventions import Root
from mailfront.cli.demo import demo
from mailfront.cli.directory import directory
from mailfront.cli.filter import filter_
from mailfront.cli.health import health
from mailfront.cli.node import node
from mailfront.cli.queue import queue
from mailfront.cli.ring import ring
from mailfront.cli.run import run
from mailfront.cli.session import session
from mailfront.cli.trace import trace
from mailfront.cli.user import user


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 75 try later.",
)
@click.version_option(__version__, prog_name="mailfront")
def cli() -> None:
    """The front end of a mail cluster: mail in on SMTP, looked up in the directory, delivered to its storage node."""


for each in (run, demo, config, queue, trace, node, ring, session, user, directory, filter_, health, completion):
    cli.add_command(each)


def main() -> None:
    """Run the command line and exit."""
    cli(prog_name="mailfront")
