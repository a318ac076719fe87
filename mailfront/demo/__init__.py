"""`mailfront demo`: a whole mail cluster on one machine, for a newcomer to watch and to try.

The real server with the real configuration loader, on unprivileged loopback ports in a temporary directory, in front
of three embedded storage nodes. The nodes need the extra `demo` (pymap).
"""

import importlib.util
import sys


def main(once: bool) -> int:
    """Run the demo; with `once` end after the tour. Returns the exit status: 0 only if every claim was checked."""
    if importlib.util.find_spec("pymap") is None:
        print(
            "mailfront: the demo's storage nodes need pymap; install it: pip install 'mailfront[demo]'", file=sys.stderr
        )
        return 1
    from mailfront.demo.run import run

    return run(once=once)
