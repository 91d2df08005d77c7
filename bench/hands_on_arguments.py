"""What the command lines of `generate`, `caption` and `complete` take. Imports no torch."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from bench import finding, prompt_file
from bench.config import Config
from bench.errors import UserError
from bench.files import check_output, whole_characters
from bench.ranges import Range, Seed

PLACE: dict[str, Any] = {"positional": True}
DRAWN = "drawn"
OF_GENERATE = re.compile(r"grid\.png|\d{3,}\.png|metadata\.(jsonl|csv)")
"""Names of files that `generate` writes, and of what would stand beside its metadata.jsonl."""
RUN = "an approach, a run's folder, or the beginning of its name or key"


@dataclass(frozen=True, kw_only=True)
class OnRun:
    """What all three take."""

    run: Positional[Annotated[str, arg(metavar="RUN")]] = field(default="", metadata=PLACE)
    """A done run: its folder, the beginning of its name or key, or an approach's name for its latest."""
    out: Path = Path("runs")
    """Folder of the runs."""
    seed: Seed = 0
    """Of the noise, or of the words drawn."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class GenerateArguments(OnRun):
    """Draw pictures from words with a trained run, and save them as one grid and one file each."""

    texts: Positional[Annotated[tuple[str, ...], arg(metavar="PROMPT...")]] = field(default=(), metadata=PLACE)
    """What to draw."""
    prompts: Path | None = None
    """More of it from a file: .txt with a prompt a line, or .jsonl with a field prompt, text or caption; - reads lines
    from standard input."""
    nfe: Annotated[int, Range(1, 10_000)] | None = None
    """Network evaluations a picture; the run's own number by default."""
    guidance: Annotated[float, Range(0, 1000)] | None = None
    """Classifier-free guidance scale, 1 is none; the run's own by default."""
    count: Annotated[int, Range(1, 10_000)] = 1
    """Pictures a prompt, each from noise of its own."""
    to: Path | None = None
    """Folder that receives the pictures, grid.png and metadata.jsonl, as --data.name folder reads it; by default drawn,
    or where that has pictures drawn-2, and so on."""

    def check(self, config: Config) -> None:
        """UserError where there is nothing to draw, no such done run, or --to has pictures that an earlier command
        drew: they would be lost, or pass for these."""
        asked = self.texts if self.prompts is None else (*self.texts, self.prompts)
        _check_run(self, "generate", asked, '"PROMPT" or --prompts FILE')
        for text in self.texts:
            if text == prompt_file.STDIN or text.startswith("@"):
                file = text.removeprefix("@") or "FILE"
                raise UserError(
                    f"'{text}' is no prompt, expected words: a file's prompts are drawn by --prompts {file}"
                )
        if self.prompts is not None:
            prompt_file.check(self.prompts)
        if self.to is not None:
            check_output(self.to, "--to")
            _check_fresh(self.to)


@dataclass(frozen=True, kw_only=True)
class CaptionArguments(OnRun):
    """Describe pictures with a trained run. Any size and colour mode: a picture is brought to the run's own."""

    pictures: Positional[Annotated[tuple[Path, ...], arg(metavar="PICTURE...")]] = field(default=(), metadata=PLACE)
    """Picture files."""
    temperature: Annotated[float, Range(0, 100)] = 0.0
    """0 takes the likeliest word each time."""

    def check(self, config: Config) -> None:
        """UserError where there is nothing to describe, a picture is not there, or no such done run."""
        _check_run(self, "caption", self.pictures, "PICTURE")
        for path in self.pictures:
            if not path.is_file():
                raise UserError(f"no such picture: {path}")


@dataclass(frozen=True, kw_only=True)
class CompleteArguments(OnRun):
    """Continue a text with a trained run."""

    texts: Positional[Annotated[tuple[str, ...], arg(metavar="TEXT...")]] = field(default=(), metadata=PLACE)
    """What to continue."""
    tokens: Annotated[int, Range(1, 100_000)] = 32
    """Most tokens to write."""
    temperature: Annotated[float, Range(0, 100)] = 0.0
    """0 takes the likeliest word each time."""

    def check(self, config: Config) -> None:
        """UserError where there is nothing to continue, or no such done run."""
        _check_run(self, "complete", self.texts, '"TEXT"')


def place(arguments: GenerateArguments) -> Path:
    """The folder that receives the pictures: --to, or the first of drawn, drawn-2 and so on that is not there, made
    now, so that another command beside this one takes the next."""
    return arguments.to if arguments.to is not None else _next(Path(DRAWN), 1)


def free(to: Path) -> Path:
    """The folder, or, where another command drew into it meanwhile, the first of its name with a number that is not
    there, made now."""
    return _next(to, 2) if earlier(to) else to


def _next(first: Path, number: int) -> Path:
    for each in itertools.count(number):
        folder = first.with_name(f"{first.name}-{each}") if each > 1 else first
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"can't write {folder}: {error.strerror or error}") from error
        return folder
    raise AssertionError("numbers end")


def _check_fresh(to: Path) -> None:
    if found := earlier(to):
        raise UserError(
            f"--to {to} holds {found}, which an earlier command may have drawn: name another folder, or remove what is "
            "in it"
        )


def earlier(folder: Path) -> str:
    """The name of a file in a folder that `generate` would write over, or that an earlier one has left; "" where there
    is none."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return next((name for name in names if OF_GENERATE.fullmatch(name)), "")


def _check_run(arguments: OnRun, verb: str, things: tuple[Any, ...], words: str) -> None:
    if not arguments.run:
        raise UserError(f"'{verb}' needs RUN, {RUN}, and {words}")
    finding.find(arguments.run, arguments.out)
    if not things:
        raise UserError(f"'{verb}' needs {words} after the run")
    _check_text(things, words)


def _check_text(things: tuple[Any, ...], words: str) -> None:
    for thing in things:
        if isinstance(thing, str) and whole_characters(thing) != thing:
            raise UserError(f"{words} {ascii(thing)} is not UTF-8")
