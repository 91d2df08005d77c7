"""The source of classes with each module parsed once. Standard library only.

tyro reads the docstrings below a dataclass's fields through `inspect.getsource`, which in Python 3.11 parses and walks
the whole module anew for every class: a quarter of what it took to print the help of `pretrain`.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import linecache
from collections.abc import Iterator
from functools import cache
from typing import Any


def source_of(thing: Any) -> str | None:
    """What `inspect.getsource` gives for a class at the top level of a module with a file, where that module has one
    class of the name; None for anything else."""
    if not inspect.isclass(thing):
        return None
    try:
        path = inspect.getsourcefile(thing)
    except TypeError:  # no file: built in, or made in __main__
        return None
    return _classes(path).get(thing.__qualname__) if path else None


@contextlib.contextmanager
def sources_read_once() -> Iterator[None]:
    """While it lasts, `inspect.getsource` answers by `source_of` where that knows."""
    own = inspect.getsource
    inspect.getsource = lambda object: source_of(object) or own(object)
    try:
        yield
    finally:
        inspect.getsource = own


@cache
def _classes(path: str) -> dict[str, str]:
    """The source of a file's top-level classes by name, decorators included; without a name that appears twice."""
    lines = linecache.getlines(path)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:  # changed since its import
        return {}
    found: dict[str, str] = {}
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and names.count(node.name) == 1:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "".join(lines[first - 1 : node.end_lineno])
    return found
