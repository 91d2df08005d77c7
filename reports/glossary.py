"""What the metrics are called and mean, from metrics.json; a metric that is not there is shown under its own name.
And how numbers are written: in a unit that fits, with as many digits as the interval bears."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from bench.printable import clean
from metrics.statistics import Estimate

RETENTION = "perplexity_retention"
BESIDE_DISTANCES = ("null_", "vae_")  # distances of true pictures, which stand beside another
ARROWS = {"higher": "↑", "lower": "↓", "": ""}
SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes")),
    "FLOP": ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP")),
    "parameters": ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"), (1.0, "")),
    "s": ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")),
    "J": ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J")),
}
"""Units that are written larger or smaller, largest first; others stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """A metric's name for a reader, the question it belongs to, and one sentence. best: what its `reference` is of."""

    name: str
    title: str
    group: str
    says: str
    best: str = ""


@cache
def known() -> dict[str, Any]:
    """metrics.json."""
    values: dict[str, Any] = json.loads(files("reports").joinpath("metrics.json").read_text(encoding="utf-8"))
    return values


def of_the_truth(name: str) -> bool:
    """Whether a number is of true pictures alone, so that what was trained and drawn has no part in it."""
    return name.startswith(BESIDE_DISTANCES) or name == "parser_accuracy"


@cache
def meaning(name: str) -> Meaning:
    """Of any metric: by the first pattern that fits."""
    for entry in known()["metrics"]:
        pattern = entry["pattern"]
        if fnmatchcase(name, pattern):
            before, _, after = pattern.partition("*")
            rest = name[len(before) : len(name) - len(after)]
            title = clean(entry["title"].replace("{0}", rest.replace("_", entry.get("joint", " ")).rstrip()))
            return Meaning(name=name, title=title, group=entry["group"], says=entry["says"], best=entry.get("best", ""))
    return Meaning(name=name, title=clean(name.replace("_", " ")), group="other", says="")


def ordered(names: Iterable[str]) -> list[str]:
    """Names in the order of metrics.json, unknown ones last, by name."""
    patterns = [entry["pattern"] for entry in known()["metrics"]]

    def place(name: str) -> tuple[int, list[float], str]:
        found = (number for number, pattern in enumerate(patterns) if fnmatchcase(name, pattern))
        return next(found, len(patterns)), [float(part) for part in re.findall(r"\d+(?:\.\d+)?", name)], name

    return sorted(dict.fromkeys(names), key=place)


def groups() -> dict[str, str]:
    """name -> the question that a group of metrics answers, in order."""
    values: dict[str, str] = known()["groups"]
    return values


def first_of(patterns: Sequence[str], names: Iterable[str]) -> str | None:
    """The first name that the earliest fitting pattern has."""
    every = sorted(names)
    for pattern in patterns:
        for name in every:
            if fnmatchcase(name, pattern):
                return name
    return None


def main_metrics(names: Iterable[str], measured: Iterable[str]) -> list[str]:
    """The headline: of each question's alternatives the first that somebody has a number of; where nobody has one, the
    first that is missing. A pattern by itself is all that fit it and somebody has a number of."""
    every, having = list(names), list(measured)
    chosen: list[str | None] = []
    for patterns in known()["main"]:
        if isinstance(patterns, str):
            chosen += sorted(name for name in having if fnmatchcase(name, patterns))
        else:
            chosen.append(first_of(patterns, having) or first_of(patterns, every))
    return [name for name in chosen if name is not None]


# ---------------------------------------------------------------------------------------------------------- numbers


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A unit, and how many of the record's one of it is."""

    factor: float = 1.0
    unit: str = ""


def scale_of(unit: str, values: Iterable[float]) -> Scale:
    """A unit in which the middle one of the values but 0, of two the lesser, still has a digit before the point, as far
    as there is one."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    choices = SCALES.get(unit)
    if choices is None or not sizes:
        return Scale(unit=clean(unit))
    middle = sorted(sizes)[(len(sizes) - 1) // 2]
    factor, name = next(((f, n) for f, n in choices if middle >= f), choices[-1])
    return Scale(factor=factor, unit=name)


def digits(estimate: Estimate, scale: Scale) -> int:
    """Decimals: two significant digits of half the interval; three of the number where it has none."""
    if estimate.value is None:
        return 0
    reach = 0.0
    if estimate.low is not None and estimate.high is not None:
        reach = (estimate.high - estimate.low) / 2 / scale.factor
    size = abs(estimate.value) / scale.factor
    if reach > 0:
        return min(6, max(0, 1 - math.floor(math.log10(reach))))
    if size == 0 or float(size).is_integer():
        return 0
    return min(6, max(0, 2 - math.floor(math.log10(size))))


def number(value: float, decimals: int) -> str:
    """Plain decimals, thousands parted; powers of ten where it would be too long."""
    if value and (abs(value) >= 1e7 or abs(value) < 10**-6):
        return f"{value:.3g}"
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def common_digits(estimates: Iterable[Estimate], scale: Scale) -> int:
    """Decimals for numbers that stand in one column: as many as the one that needs most, of those with a spread."""
    known = [estimate for estimate in estimates if estimate.value is not None]
    spread = [estimate for estimate in known if estimate.low != estimate.high or estimate.low is None]
    return max((digits(estimate, scale) for estimate in spread or known), default=0)


def written(estimate: Estimate, scale: Scale | None = None, *, decimals: int | None = None, unit: bool = False) -> str:
    """`0.91 [0.83, 0.93]`; without the interval where there is none; a dash where it is missing."""
    if estimate.value is None:
        return "–"
    scale = scale or scale_of(estimate.unit, [estimate.value])
    decimals = digits(estimate, scale) if decimals is None else decimals
    text = number(estimate.value / scale.factor, decimals)
    if estimate.low is not None and estimate.high is not None:
        low, high = (number(bound / scale.factor, decimals) for bound in (estimate.low, estimate.high))
        text += f" [{low}, {high}]"
    return f"{text} {scale.unit}" if unit and scale.unit else text


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(count: int, noun: str, plural: str = "") -> str:
    """1 run, 2 runs."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
