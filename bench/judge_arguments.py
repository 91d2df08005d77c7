"""What the command line of `judge` takes. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from bench.config import Config
from bench.errors import UserError
from bench.evaluate_arguments import MeasuringArguments
from bench.files import at_home, read_json
from bench.hands_on_arguments import PLACE
from bench.ranges import Range
from bench.store import SAMPLES
from reports import schema

DRAWN = "a folder of pictures, or a run's folder"


@dataclass(frozen=True, kw_only=True)
class JudgeArguments(MeasuringArguments):
    """Measure pictures that anybody made, without training: how near they are to real ones (--reference), and to the
    captions that metadata or .txt files in their folder give them, as --data.name folder reads these. Every
    picture under the folder counts, in the order of names. It stays at its own size, and the extractor resizes it, as
    torch-fidelity does; of one that is not square the middle square is taken, where torch-fidelity squeezes it. Of a
    run's folder the drawn pictures that it kept are judged, with their captions, against the true ones that it kept."""

    drawn: Positional[Annotated[str, arg(metavar="DRAWN")]] = field(default="", metadata=PLACE)
    """The pictures to judge: a folder of them, in sub-folders too, or a run's folder."""
    reference: Path | None = None
    """Folder of real pictures to compare with; of a run's folder the true pictures that it kept."""
    batch: Annotated[int, Range(1, 100_000)] = 32
    """Pictures at a time."""
    json: bool = False
    """Print JSON: each number's name, and its estimate as in a run's record."""
    to: Path | None = None
    """File that receives the same JSON."""

    @property
    def place(self) -> Path:
        """Where the pictures to judge lie."""
        return at_home(self.drawn)

    def check(self, config: Config) -> None:
        """UserError where there are no such folders, or something to measure with is not there."""
        if not self.drawn:
            raise UserError(f"'judge' needs DRAWN, {DRAWN}")
        _check_folder(self.place, "DRAWN", DRAWN)
        if (reference := self.reference and at_home(self.reference)) is not None:
            _check_folder(reference, "--reference", "a folder of real pictures")
            inner, outer = reference.resolve(), self.place.resolve()
            if inner != outer and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
                raise UserError(
                    f"--reference {reference} and {self.drawn} lie one inside the other, and pictures in sub-folders "
                    "count: expected folders apart"
                )
        super().check(config)
        if self.to is not None:
            _check_target(at_home(self.to))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, whose record says which of its pictures are which."""
    return (folder / schema.FILE).is_file()


def _check_target(path: Path) -> None:
    """UserError, before hours of work, where nothing could be written there, or something else would be lost."""
    if path.is_dir():
        raise UserError(f"--to {path} is a folder, expected a file")
    if path.exists() and not _of_judge(path):
        raise UserError(f"--to {path} is there already, and holds no numbers that `judge` wrote: expected another name")
    there = next(place for place in path.absolute().parents if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--to {path} can't be written: {there} is {'read-only' if there.is_dir() else 'no folder'}")


def _of_judge(path: Path) -> bool:
    """Whether a file holds what an earlier `judge` wrote: a number by each name, and nothing else."""
    try:
        values = read_json(path) if path.is_file() else None
    except UserError:
        return False
    return isinstance(values, dict) and bool(values) and all(_is_number(value) for value in values.values())


def _is_number(value: object) -> bool:
    return isinstance(value, dict) and {"value", "low", "high", "n", "better"} <= value.keys()


def _check_folder(folder: Path, what: str, expected: str) -> None:
    if not folder.is_dir():
        reason = "not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{what} {folder}: {reason}, expected {expected}")
    if folder.resolve().name == SAMPLES and is_run(folder.resolve().parent):
        raise UserError(
            f"{what} {folder} holds a run's drawn, true and nearest pictures beside each other: expected the run's own "
            f"folder, {folder.resolve().parent}"
        )
    if runs := sorted(folder.glob(f"*/{schema.FILE}")):
        one = runs[0].parent
        raise UserError(f"{what} {folder} holds runs, each with several kinds of pictures: expected one, as {one}")
