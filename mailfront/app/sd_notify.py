"""Tell systemd how we are (sd_notify protocol): one datagram to `$NOTIFY_SOCKET`, nothing if it is not set."""

import os
import socket


def sd_notify(state: str) -> None:
    """Send a state such as `READY=1`, `RELOADING=1` or `STOPPING=1`. Never fails: it is news, not a duty."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as news:
            news.sendto(state.encode(), address)
    except OSError:
        return
