"""The way that mail for a forward or a list goes, as a tree for people."""

from collections.abc import Sequence
from dataclasses import dataclass

from mailfront.base.printable import printable
from mailfront.intake.expansion import Context, Step

MOST_SHOWN = 1000
MOST_DEPTH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class WayView:
    """One thing on the way, and what is below it. `what`: mailbox, forward, list, elsewhere, suspended, does not exist,
    circle. `detail`: the mailbox key, the next hop, or the owner of a list."""

    name: str
    what: str
    detail: str = ""
    leads_to: tuple["WayView", ...] = ()


def way_of(steps: Sequence[Step]) -> WayView | None:
    """Make a tree of the steps; None if there are none. It shows the first `MOST_SHOWN` of them."""
    below: dict[int, list[Step]] = {}
    for step in steps[:MOST_SHOWN]:
        below.setdefault(id(step.context), []).append(step)

    def view(step: Step, depth: int) -> WayView:
        return WayView(
            name=printable(step.name, 400),
            what=step.met.value,
            detail=printable(step.detail, 400),
            leads_to=views(step.opens, depth + 1) if step.opens is not None and depth < MOST_DEPTH else (),
        )

    def views(context: Context, depth: int) -> tuple[WayView, ...]:
        return tuple(view(step, depth) for step in below.get(id(context), ()))

    return view(steps[0], 0) if steps else None
