"""The approaches by name. A line names two things: a settings dataclass that needs no torch, and the class.

Another package adds its own by an entry point, with no line here:

    [project.entry-points."bench.approaches"]
    my_way = "my_package.entry:APPROACH"

where APPROACH is an `ApproachEntry`, in a module that imports no torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench.errors import UserError, in_a_line, nearest
from bench.registry import Entry, Registry, at

GROUP = "bench.approaches"
ALL = "all"
"""What a command line says for every approach: the name of none."""
_NAME = re.compile(r"\w[\w-]*")  # it begins the names of folders


@dataclass(frozen=True, kw_only=True)
class ApproachEntry(Entry):
    """target: the class, a subclass of approaches.base.Approach. settings: "package.module:Dataclass", torch-free."""

    settings: str

    def load(self) -> Any:
        """The class. UserError where it can't be had, or is none."""
        return _loaded(self.name, self.target, "approaches.base:Approach")

    def check_target(self) -> None:
        """UserError where the class's module is not there; without importing it, which takes torch."""
        module = self.target.partition(":")[0]
        try:
            found = importlib.util.find_spec(module)
        except ImportError:  # of a package around it
            found = None
        if found is None:
            raise UserError(f"approach '{self.name}' can't be loaded from {self.target}: there is no such module")

    def load_settings(self) -> Any:
        """The settings dataclass. UserError where it can't be had, or is none."""
        return _loaded(self.name, self.settings, "approaches.settings:Settings")


def _loaded(name: str, path: str, of: str) -> Any:
    """The class at "module:attribute", a subclass of that at `of`; UserError where it isn't."""
    try:
        found = at(path)
    except (Exception, SystemExit) as error:  # whatever a stranger's module may raise
        raise UserError(f"approach '{name}' can't be loaded from {path}: {in_a_line(error)}") from error
    if not (isinstance(found, type) and issubclass(found, at(of))):
        raise UserError(f"approach '{name}': {path} is no subclass of {of.replace(':', '.')}")
    return found


class ApproachRegistry(Registry):
    """Our lines, then the entry points of installed packages; a name that both have is ours to refuse."""

    _entries: dict[str, Entry]

    def add_approach(self, name: str, target: str, *, settings: str, summary: str) -> None:
        """Register one name; ValueError where it is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice: {self._entries[name].target} and {target}")
        self._entries[name] = ApproachEntry(name=name, target=target, summary=summary, settings=settings)

    def __getitem__(self, name: str) -> ApproachEntry:
        points = _points()
        if name not in self._entries and name in points:
            return _foreign(*points[name])
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} '{name}': {nearest(name, list(self))}")
        entry = self._entries[name]
        assert isinstance(entry, ApproachEntry)
        if name in points:
            raise UserError(
                f"{self.kind} '{name}' is ours, and {_package(points[name][0])} brings another: rename that one"
            )
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in _points()

    def __iter__(self) -> Iterator[str]:
        return iter([*self._entries, *(name for name in sorted(_points()) if name not in self._entries)])

    def __len__(self) -> int:
        return len(list(iter(self)))


APPROACHES = ApproachRegistry("approach")


def _points() -> Mapping[str, tuple[importlib.metadata.EntryPoint, ...]]:
    return _points_on(tuple(sys.path))


@cache
def _points_on(path: tuple[str, ...]) -> Mapping[str, tuple[importlib.metadata.EntryPoint, ...]]:
    """The entry points of packages on this `sys.path`, looked for once: every installed package's files are read."""
    points = importlib.metadata.entry_points(group=GROUP)
    return {name: tuple(points.select(name=name)) for name in points.names}


def package_of(name: str) -> dict[str, str]:
    """The package that brings an approach, and its version; nothing for one of ours."""
    points = () if name in APPROACHES._entries else _points().get(name, ())
    return {point.dist.name: point.dist.version for point in points if point.dist is not None}


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _foreign(point: importlib.metadata.EntryPoint, *others: importlib.metadata.EntryPoint) -> ApproachEntry:
    """UserError, naming the package, where its entry point can't be imported or is no ApproachEntry, or where other
    packages bring the same name."""
    if others:
        packages = ", ".join(sorted(map(_package, (point, *others))))
        raise UserError(f"approach '{point.name}' is brought by several packages: {packages}; uninstall all but one")
    whose = f"approach '{point.name}' of the package {_package(point)}"
    if point.name == ALL or not _NAME.fullmatch(point.name):
        raise UserError(f"{whose} has a name that can't be one: expected letters, digits, _ and -, and not '{ALL}'")
    try:
        entry = point.load()
    except (Exception, SystemExit) as error:  # whatever a stranger's module may raise
        raise UserError(f"{whose} can't be loaded from {point.value}: {in_a_line(error)}") from error
    if not isinstance(entry, ApproachEntry):
        raise UserError(f"{whose} is a {type(entry).__name__}, expected an approaches.registry.ApproachEntry")
    if entry.name != point.name:
        raise UserError(f"{whose} is called '{entry.name}' in {point.value}: both names are to be the same")
    return entry


APPROACHES.add_approach(
    "full_retraining",
    "approaches.full_retraining:FullRetraining",
    settings="approaches.settings:FullRetrainingSettings",
    summary="Transfusion: one transformer, every weight trained on text and pictures",
)
APPROACHES.add_approach(
    "dual_tower",
    "approaches.dual_tower:DualTower",
    settings="approaches.settings:DualTowerSettings",
    summary="X-Fusion: a vision tower beside the frozen text tower, layer by layer",
)
APPROACHES.add_approach(
    "projection",
    "approaches.projection:Projection",
    settings="approaches.settings:ProjectionSettings",
    summary="BLIP-2 and MetaQuery: queries and connectors around the frozen language model",
)
APPROACHES.add_approach(
    "modular",
    "approaches.modular.approach:Modular",
    settings="approaches.settings:ModularSettings",
    summary="plan in words, draw, check, redraw: experts beside the frozen language model",
)
