"""Reading the configuration file: all mistakes at once, or a `Configuration` that fits together.

Order: size and encoding, TOML syntax (only the first mistake can be seen), every section's model, then what several
sections must agree on. A section with mistakes does not hide those of the others. Relative paths in the file are
relative to its folder. Nothing outside the file is looked at here; `check` does that.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from mailfront.base.errors import ConfigError
from mailfront.config.agreement import Sections, disagreements
from mailfront.config.mistakes import problems_of
from mailfront.config.model import Configuration
from mailfront.config.server_section import read_text, read_toml, with_absolute_paths


def load(path: Path) -> Configuration:
    """Read and check the file at `path`. Raises ConfigError with all mistakes, one line each."""
    return parse(read_text(path), path)


def parse(text: str, path: Path) -> Configuration:
    """Check the text of a configuration file. `path` names it and gives relative paths their folder.

    Raises ConfigError with all mistakes, one line each.
    """
    data = read_toml(text, path)
    problems: tuple[str, ...] = ()
    try:
        configuration = Configuration.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error, data, Configuration)
        sections = _valid_sections(data)
    else:
        sections = {name: getattr(configuration, name) for name in Configuration.model_fields}
    problems += tuple(disagreements(Sections(**sections, tls_is_there="tls" in data)))
    if problems:
        raise ConfigError(problems)
    return with_absolute_paths(configuration, path.absolute().parent)


def _valid_sections(data: dict[str, Any]) -> dict[str, Any]:
    """The sections that are right by themselves; of lists, the elements that are."""
    good: dict[str, Any] = {}
    for name, field in Configuration.model_fields.items():
        if name not in data:
            good[name] = None if field.is_required() else field.get_default(call_default_factory=True)
            continue
        value = data[name]
        annotation: Any = Annotated[field.annotation, field]
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        good[name] = _validated(adapter, value)
        if good[name] is None and isinstance(value, list):
            one_by_one = [_validated(adapter, [element]) for element in value]
            good[name] = tuple(found[0] for found in one_by_one if found) or None
    return good


def _validated(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None
