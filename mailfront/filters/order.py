"""The order of the chain: as declared, but nobody before those that its `after` names. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence

from mailfront.filters.registry import kind_of
from mailfront.filters.settings import FilterSettings


def in_order(filters: Sequence[FilterSettings]) -> tuple[FilterSettings, ...]:
    """The filters, each behind those that it comes after, else as declared. What is in a circle is left out."""
    done: dict[str, FilterSettings] = {}
    waiting = list(filters)
    while waiting:
        ready = next((each for each in waiting if all(name in done for name in each.after)), None)
        if ready is None:
            break
        done[ready.name] = ready
        waiting.remove(ready)
    return tuple(done.values())


def filter_problems(filters: Sequence[FilterSettings]) -> Iterator[str]:
    """What is wrong with the tables taken together, one line each."""
    names = Counter(each.name for each in filters)
    for name, count in names.items():
        if count > 1:
            yield f"filter: {count} tables have the name {name}; logs and `after` need one name each"
    unknown = False
    for each in filters:
        for other in each.after:
            if other not in names:
                unknown = True
                yield f"filter {each.name}: after names {other}, and there is no such filter"
        stages = kind_of(each).stages_of(each.settings)
        has_recipients = {"rcpt", "data"} & {stage.value for stage in stages}
        if (each.only_for.domains or each.only_for.classes) and not has_recipients:
            yield f"filter {each.name}: only_for names recipients, and this kind is asked before there are any"
    if not unknown and max(names.values(), default=0) < 2:
        circle = [each.name for each in filters if each not in in_order(filters)]
        if circle:
            yield f"filter: {', '.join(circle)} wait for each other in a circle; take one `after` out"
