"""A run asked for from Python: `bench.run`. Its values become the words of a command line: so they are judged, done and
kept as `python -m bench run` does it, and the record names a command that makes the run again. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from bench import runner
from bench.cli import VERBS, judged
from bench.config import Config
from bench.console import Console
from bench.errors import UserError, nearest
from bench.exits import DONE
from bench.obstacles import check_here
from bench.parsing import SHORT, base_of, flags_of, spelled_out
from bench.presets import preset as preset_named
from bench.run_arguments import chosen, settings_of

SHORT_NAMES = tuple(flag.removeprefix("--") for flag in SHORT)


def run(words: Sequence[str]) -> Path:
    """The folder of the done run that `spelled` words ask for: see `bench.run`."""
    parsed, console = judged("run", VERBS["run"], words), Console()
    check_here(parsed.config)
    command = ("python", "-m", "bench", "run", *words)
    (request,) = runner.plan(parsed.arguments, parsed.config, console, command)
    ended = runner.execute(request, parsed.arguments.out, console)
    if ended.code != DONE:
        raise UserError(f"run {ended.folder.name}: {ended.state.state}: {ended.state.reason}")
    return ended.folder


def spelled(
    approach: str,
    *,
    preset: str,
    out: str | Path,
    seed: int,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
) -> list[str]:
    """The words of `run`'s command line that mean the same. UserError on more approaches than one, and on a name in
    `config` that is no field of a config but an option of `run`."""
    if len(chosen([approach])) != 1:
        raise UserError(f"approach is '{approach}', expected one: bench.run makes one run")
    for name, instead in (("seed", "seed="), ("preset", "preset=")):
        if name in config:
            raise UserError(f"config has '{name}', expected it as {instead}")
    if not all(isinstance(name, str) for name in (preset, *config, *settings)):
        raise UserError("preset and the names in config and settings are texts, such as 'tiny' and 'data.path'")
    fields = {flag.removeprefix("--").replace("-", "_") for flag, _ in flags_of(Config)} - {"preset"}
    for name in config:
        if "." not in name and name not in (*fields, *SHORT_NAMES):
            raise UserError(f"config has '{name}', which is no field of a config: {nearest(name, fields)}")
    words = [f"--approach={approach}", f"--preset={preset}", f"--out={out}", f"--seed={seed}"]
    words += _options("", config, preset_named(preset))
    words += _options("settings.", settings, settings_of(approach, base_of(spelled_out(words))))
    return words


def _options(prefix: str, values: Mapping[str, Any], usual: Any) -> Iterator[str]:
    """Values as words. usual: the dataclass that they change; a switch is given only where it is not as there."""
    for name, value in values.items():
        if isinstance(value, bool) or type(value).__name__ == "bool_":  # NumPy's
            value = bool(value)
            section, dot, last = name.rpartition(".")
            if value is not reduce(lambda part, field: getattr(part, field, None), name.split("."), usual):
                yield f"--{prefix}{section}{dot}{'' if value else 'no-'}{last}"
        elif isinstance(value, list | tuple):
            yield f"--{prefix}{name}"
            yield from map(str, value)
        else:
            yield f"--{prefix}{name}={value}"
