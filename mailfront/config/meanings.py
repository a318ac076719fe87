"""What a setting means, in the words that stand below it in its model.

pydantic can read these itself (`use_attribute_docstrings`), but then it does so for every model whenever a process
starts: a third of a second, for texts that only the reference and the reports of mistakes need. Here they are read from
the source when somebody asks, once per model.
"""

import ast
import inspect
import textwrap
from functools import cache

from pydantic import BaseModel


def meaning(model: type[BaseModel], name: str) -> str:
    """The text below the setting `name` in this model or the one that it inherits it from; '' if there is none."""
    for each in model.__mro__:
        if issubclass(each, BaseModel) and (text := _meanings(each).get(name)):
            return text
    return ""


@cache
def _meanings(model: type[BaseModel]) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, TypeError):
        return {}  # made at run time, or installed without its source
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for setting, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(setting, ast.AnnAssign)
            and isinstance(setting.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[setting.target.id] = inspect.cleandoc(below.value.value)
    return found
