"""Dataclasses as plain JSON values, and back. Standard library only; a leaf module."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from bench.errors import UserError, nearest


def plain(whole: Any) -> dict[str, Any]:
    """An instance of a dataclass as plain JSON values, which `build` reads. ValueError or TypeError on what JSON can't
    hold, NaN among it."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(whole), allow_nan=False))
    return values


def build(kind: Any, value: Any, path: str = "", *, full: bool = False) -> Any:
    """`value`, plain JSON, as an instance of the annotation `kind`; a tuple may be a list or a tuple. full: whether the
    fields that have a default must be there, too. UserError that names the place, `path`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, path, full)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{path} is {value!r}: {nearest(str(value), map(str, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return build(next(a for a in arguments if a is not type(None)), value, path, full=full)
    if origin is tuple:
        items = _of(list, list(value) if isinstance(value, tuple) else value, path)
        return tuple(build(arguments[0], item, f"{path}[{i}]", full=full) for i, item in enumerate(items))
    if origin in (dict, Mapping):
        pairs = _of(dict, value, path).items()
        return {name: build(arguments[1], item, f"{path}.{name}", full=full) for name, item in pairs}
    if kind is float and type(value) is int and abs(value) < 2**53:  # that a float holds exactly
        return float(value)
    return _of(kind, value, path)


def _build_dataclass(kind: Any, value: Any, path: str, full: bool) -> Any:
    values, inside = _of(dict, value, path or "the whole"), f"{path}." if path else ""
    hints, fields = _hints(kind), {item.name: item for item in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise UserError(f"unknown field '{inside}{name}': {nearest(name, fields)}")
    for name, item in fields.items():
        if name not in values and (full or item.default is item.default_factory is dataclasses.MISSING):
            raise UserError(f"the field '{inside}{name}' is missing")
    built = {name: build(hints[name], item, f"{inside}{name}", full=full) for name, item in values.items()}
    try:
        return kind(**built)
    except ValueError as error:  # an estimate that says neither a number nor why not
        raise UserError(f"{path}: {error}" if path else str(error)) from error


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """A dataclass' annotations: resolving them takes longer than all else."""
    return typing.get_type_hints(kind)


def _of(kind: type[Any], value: Any, path: str) -> Any:
    if type(value) is not kind:
        expected = {"dict": "an object", "list": "a list", "str": "text"}.get(kind.__name__, kind.__name__)
        raise UserError(f"{path} is {value!r:.60}, expected {expected}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{path} is {value}, expected a finite number")
    return value


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Leaves of nested objects with dotted names."""
    for name, value in values.items():
        whole = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from flat(value, whole)
        else:
            yield whole, value
