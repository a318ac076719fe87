"""Text from outside, made fit to be shown: the one way from the wire into a log line, a header or a terminal."""


def printable(value: str | bytes, limit: int = 256) -> str:
    """Make text safe to show: control characters, line ends, undecodable bytes, and characters that nobody sees or that
    turn the direction of the text become `?`, and it is cut at `limit` characters. Never use the result as a key or an
    address."""
    if isinstance(value, bytes):
        value = value[: limit * 4].decode("utf-8", "replace")
    cut = value[:limit]
    if not cut.isprintable():
        cut = "".join([each if each.isprintable() else "?" for each in cut])
    return cut if len(value) <= limit else cut[: limit - 1] + "…"
