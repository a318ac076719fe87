"""Durations and sizes as people write them: `5m`, `1h30m`, `50MiB`.

Pure. Seconds are floats, sizes are whole bytes. Sizes accept binary (KiB, MiB, GiB, TiB) and decimal
(KB, MB, GB, TB) units and plain bytes (B, or no unit).
"""

import re

_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B)?", re.IGNORECASE)
_SIZE_UNITS_BYTES = {"b": 1} | {
    f"{letter}{infix}b": base**power
    for power, letter in enumerate("kmgt", start=1)
    for infix, base in (("", 1000), ("i", 1024))
}


def parse_duration_s(text: str) -> float:
    """Read a duration such as `250ms`, `30s`, `1h30m`, `5d`. Returns seconds. Raises ValueError with the reason."""
    text = text.strip()
    position, total_s = 0, 0.0
    for match in _DURATION_PART.finditer(text):
        if match.start() != position:
            break
        total_s += float(match[1]) * _DURATION_UNITS_S[match[2]]
        position = match.end()
    if not text or position != len(text):
        raise ValueError(f"{text!r} is not a duration; write a number with a unit: 250ms, 30s, 5m, 1h30m, 5d")
    return total_s


def parse_size_bytes(text: str) -> int:
    """Read a size such as `512`, `128KiB`, `50MiB`, `8GB`. Returns bytes. Raises ValueError with the reason."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number with a unit: 512B, 128KiB, 50MiB, 8GiB")
    return int(float(match[1]) * _SIZE_UNITS_BYTES[(match[2] or "B").lower()])


def show_duration(seconds: float) -> str:
    """Write seconds in the largest two units, for people: `2d4h`, `5m`, `0s`."""
    rest = int(seconds)
    if 0 < seconds < 1:
        return f"{int(seconds * 1000)}ms"
    parts: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_DURATION_UNITS_S[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def show_size(size_bytes: int) -> str:
    """Write bytes in the largest binary unit, for people: `1.5MiB`."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f}{unit}" if unit == "B" or amount == int(amount) else f"{amount:.1f}{unit}"
        amount /= 1024
    return f"{amount:.1f}TiB"
