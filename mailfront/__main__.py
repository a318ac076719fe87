"""`python -m mailfront`: the same as the command `mailfront`."""

from mailfront.cli.main import main

main()
