"""Whether an approach's settings are ones that a command line can offer and a record can hold: a stranger's are judged
before anything else is done. Imports no torch."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from approaches.settings import Settings
from bench.config import from_values
from bench.errors import UserError
from bench.plain import plain
from bench.validation import check_bounds


@cache
def check_settings(name: str, kind: type[Any]) -> None:
    """UserError that says what is wrong with an approach's settings class: no dataclass of its own, annotations that
    don't resolve, or defaults, its own or a preset's, that can't be built, kept as JSON or are out of bounds."""
    whose = f"approach '{name}': its settings, {kind.__module__}.{kind.__qualname__},"
    try:
        hints = typing.get_type_hints(kind)
    except Exception as error:  # whatever a stranger's annotations may raise
        raise UserError(f"{whose} have an annotation that does not resolve: {error}") from error
    annotated = vars(kind).get("__annotations__", {})
    own = [field for field in annotated if typing.get_origin(hints[field]) is not typing.ClassVar]
    if own and "__dataclass_fields__" not in vars(kind):
        raise UserError(f"{whose} lack @dataclass(frozen=True, kw_only=True): {', '.join(own)} would be no options")
    for told, values in _presets(kind):
        try:
            settings = kind(**values)
            check_bounds(settings)
            again = from_values(kind, plain(settings))
        except Exception as error:  # whatever a stranger's __post_init__ may raise
            raise UserError(f"{whose} can't have their {told}: {error}") from error
        if again != settings:
            raise UserError(f"{whose} are not the same after they were written as JSON, by their {told}")


def check_asked(settings: Any) -> None:
    """UserError where settings, as they are asked for, have one that changes nothing beside the others."""
    if isinstance(settings, Settings):
        settings.check_asked()


def _presets(kind: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "defaults", {}
    for preset, values in kind.OF_PRESETS.items():
        yield f"OF_PRESETS['{preset}']", dict(values)
        yield f"OF_PRESETS['{preset}'] beside OF_OTHER_LMS", {**values, **kind.OF_OTHER_LMS}
    yield "OF_OTHER_LMS", dict(kind.OF_OTHER_LMS)
