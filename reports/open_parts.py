"""What pages read out of a record where its type leaves open what stands there (config, provenance, details of
estimates), judged once, when it is read: behind it a page takes each for what it is.

A field that a page reads is named in one of the tables below; others may hold anything that is not too deep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.errors import UserError
from metrics.statistics import Estimate

DEEPEST = 32  # objects and lists inside each other
LARGEST = 1e120
"""In size, of the numbers that pages calculate with: their products with a count, and sums of squares of these, are
finite."""
COUNTS = 2**53
"""Up to which a float holds every whole number."""
CALCULATED = ("budgets", "curves", "metrics", "seconds")
"""Fields of a record with numbers that pages calculate with."""

Kind = tuple[str, Callable[[Any], bool]]
"""What is expected, in words, and whether a value is that."""


def number(value: Any) -> bool:
    """Whether it is a number that pages can calculate with."""
    return type(value) in (int, float) and -LARGEST < value < LARGEST


def count(value: Any) -> bool:
    """Whether it is a whole number from 0 on, as a float holds it."""
    return type(value) is int and 0 <= value <= COUNTS


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


TEXT: Kind = "text", _text
TEXTS: Kind = "a list of text", _list_of(_text)
NUMBERS: Kind = "a list of numbers", _list_of(number)
OBJECT: Kind = "an object", _object
OBJECTS: Kind = "an object of objects", lambda value: _object(value) and all(map(_object, value.values()))
COUNT: Kind = "a whole number from 0 on", count
PLACES: Kind = (
    "different whole numbers from 0 on",
    lambda value: _list_of(count)(value) and len(set(value)) == len(value),
)

CONFIG: dict[str, Kind] = {
    "seed": ("int", lambda value: type(value) is int), "data": OBJECT, "model": OBJECT, "model.encoder": TEXT,
    "train": OBJECT,
}  # fmt: skip
PROVENANCE: dict[str, Kind] = {"settings_changed": TEXTS, "curves": OBJECTS}
DETAILS: dict[str, Kind] = {
    "per_item": NUMBERS, "pseudo": NUMBERS, "sizes": NUMBERS, "per_seed": NUMBERS, "strata": TEXTS, "nearest": TEXTS,
    "looked_at": PLACES, "items_each": COUNT, "own": NUMBERS,
}  # fmt: skip
"""Of an estimate."""
AS_MANY = {"own": "per_item", "strata": "per_item", "looked_at": "per_item", "sizes": "pseudo", "pseudo": "sizes"}
"""Details of which an estimate has as many as of another."""


def check_leaves(values: Mapping[str, Any]) -> None:
    """UserError that names the place where parsed JSON is deeper than DEEPEST, or holds a number that is not finite, or
    not smaller than LARGEST among those that pages calculate with."""
    for name, value in values.items():
        _check_inside(name, value, 1, LARGEST if name in CALCULATED else math.inf)


def _check_inside(place: str, value: Any, depth: int, bound: float) -> None:
    if isinstance(value, dict | list):
        if depth > DEEPEST:
            raise UserError(f"{place[:60]}... holds more than {DEEPEST} objects and lists inside each other")
        pairs: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in pairs:
            larger = type(item) in (int, float) and not -bound < item < bound
            if larger or isinstance(item, dict | list):  # of the others, which are many, nobody asks the place
                at = f"{place}[{name}]" if isinstance(value, list) else f"{place}.{name}"
                if larger:
                    smaller = f", smaller than {bound:g}" if bound < math.inf else ""
                    raise UserError(f"{at} is {item!r:.60}, expected a finite number{smaller}")
                _check_inside(at, item, depth + 1, bound)


def check_open_parts(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """UserError where what pages read of a record's config and provenance is not what they take it for."""
    _check("config", {"seed": None, **config}, CONFIG)  # the seed alone must be there
    _check("provenance", provenance, PROVENANCE)


def check_estimate(place: str, estimate: Estimate) -> None:
    """The same of an estimate's details, and of its n."""
    details = estimate.details
    _check(f"{place}.details", details, DETAILS)
    if not count(estimate.n):
        raise UserError(f"{place}.n is {estimate.n!r:.60}, expected {COUNT[0]} to {COUNTS:,}")
    for name, other in AS_MANY.items():
        if name in details and len(details[name]) != len(details.get(other, ())):
            raise UserError(f"{place}.details.{name} has {len(details[name])} values, expected as many as {other} has")
    if estimate.value is not None and details.get("per_item") == []:
        raise UserError(f"{place}.details.per_item is [], expected the items of a number that is there")
    if "sizes" in details and (len(details["sizes"]) < 2 or min(details["sizes"]) <= 1):
        raise UserError(f"{place}.details.sizes is {details['sizes']!r:.60}, expected two numbers or more above 1")


def _check(whole: str, values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """UserError where a value at one of these dotted places is there, and not of its kind. A place stands behind the
    object that it is in."""
    for place, (words, fits) in kinds.items():
        inside, _, name = place.rpartition(".")
        held = values.get(inside, {}) if inside else values
        if name in held and not fits(held[name]):
            raise UserError(f"{whole}.{place} is {held[name]!r:.60}, expected {words}")
