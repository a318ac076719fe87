"""A child for tests of the supervisor's parts: `python -m tests.support.child_stub`.

What it does stands in the place of the configuration text: `serve`, `refuse`, `die`, `die-after-ready`, `deaf`
(ignores SIGTERM), `mute` (never says anything), or a path: `refuse` until it exists, then `serve`.
"""

import os
import signal
import sys

from mailfront.app.assignment import ReadyLine, read_assignment


def main() -> None:
    """Behave as the orders say."""
    orders = read_assignment()
    ready, behaviour = ReadyLine(orders), orders.config_text
    if behaviour.startswith("/"):
        behaviour = "serve" if os.path.exists(behaviour) else "refuse"
    if behaviour == "die":
        os._exit(3)
    if behaviour == "refuse":
        ready.failed("the disk is on fire")
        sys.exit(1)
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour != "mute":
        ready.serving()
    if behaviour == "die-after-ready":
        os._exit(4)
    # Ends with its supervisor: end of file on the lifeline.
    os.read(orders.lifeline_fd, 1)


if __name__ == "__main__":
    main()
