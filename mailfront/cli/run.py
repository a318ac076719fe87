"""`mailfront run`."""

import click

from mailfront.cli.conventions import Verb, config_path


@click.command(cls=Verb)
def run() -> None:
    """Run the server until SIGTERM. SIGHUP reloads the configuration."""
    from mailfront.app.run import main

    click.get_current_context().exit(main(config_path()))
