"""`mailfront demo`."""

import click

from mailfront.cli.conventions import Verb


@click.command(cls=Verb)
@click.option("--once", is_flag=True, help="End after the tour; exit code 0 only if everything was as told.")
def demo(once: bool) -> None:
    """Show a cluster at work on this machine: three small storage nodes, real messages, one node lost and found."""
    from mailfront.demo import main

    click.get_current_context().exit(main(once))
