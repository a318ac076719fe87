"""Who lives in the demo's cluster: names, addresses, aliases and passwords. Made up, the same at every start."""

from dataclasses import dataclass

DOMAIN = "example.edu"
POSTMASTER = f"postmaster@{DOMAIN}"
HANDOFF = f"handoff@{DOMAIN}"
_NAMES = (
    "ana ben carla david elena farid greta hugo ines jonas karin luca mara nils olga pavel quirin rosa "
    "sami tara ulla viktor wanda xenia yusuf zoe aylin bruno chiara dario emil flora goran hanna ivo jana"
)
_ALIASES = {"ana": (POSTMASTER,), "carla": (f"rector@{DOMAIN}", f"c.rossi@{DOMAIN}")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One mailbox. `name` is what the directory calls it and what its owner logs in with."""

    name: str
    password: str
    aliases: tuple[str, ...]

    @property
    def address(self) -> str:
        """The primary address."""
        return f"{self.name}@{DOMAIN}"


PEOPLE = tuple(
    Person(name=name, password=f"{name}-demo", aliases=_ALIASES.get(name, ())) for name in sorted(_NAMES.split())
)


def person(address: str) -> Person:
    """Who has this address, as primary one or as alias. Raises StopIteration if nobody has."""
    return next(each for each in PEOPLE if address in (each.address, *each.aliases))
