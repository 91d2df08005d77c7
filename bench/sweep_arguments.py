"""What the command line of `sweep` takes besides a config, and the trials that this means. Imports no torch."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from bench import launch, presets
from bench.config import Config
from bench.errors import UserError, nearest
from bench.parsing import type_name
from bench.ranges import Range
from bench.run_arguments import Point, RunArguments, chosen, settings_of, with_settings
from bench.validation import check_bounds, check_names, numbers, validate

LEARNING_RATE = "settings.learning_rate"
GRID = ("5e-4", "1e-3", "2e-3", "4e-3")
"""Learning rates that are tried where the command line names none."""
NO_TRIAL = {
    **dict.fromkeys(
        ("data", "diffusion", "model.vae"), "with which the loss itself changes, so that values don't compare"
    ),
    "evaluate": "which changes no training",
    "preset": "which is only a name by now",
    "seed": "and --seeds repeats every trial with others",
    "train.budget": "which is the effort that a sweep keeps equal",
    "train.amount": "which is the effort that a sweep keeps equal",
    "train.tracker": "which changes no result",
    "train.checkpoint_seconds": "which changes no result",
    "train.validations": "which changes no result",
    "pretrain": "which a run does not read",
}
"""Fields, and groups of them, that can't be swept, and why."""
OTHER_TOKENS = ("model.lm", "train.caption_tokens", "train.describe_prompt")


@dataclass(frozen=True, kw_only=True)
class SweepArguments(RunArguments):
    """Try values of one field with the same short budget for every approach, and record which is best: learning rates
    by default. Every trial is a run of its own, done once, resumed where it was cut off; its schedule is its own."""

    out: Path = Path("sweeps")
    """Folder that receives a record a sweep, and the trials' folders in trials/."""
    field: str = LEARNING_RATE
    """What to vary: settings.NAME, a setting that all these approaches have, or a field of the config."""
    values: tuple[str, ...] = ()
    """Values to try, the same for every approach; for the learning rate 5e-4 1e-3 2e-3 4e-3 by default."""
    share: Annotated[float, Range(0, 1, above=True)] = 0.25
    """Share of the config's budget that each trial gets; warm-up shrinks alike, and the decay ends with it."""
    steps: Annotated[int, Range(1, 10**9)] | None = None
    """In place of a share, a number of steps, for budgets of images or steps."""
    rank_by: Literal["validation_loss", "caption_loss", "caption_gap", "heard_colours", "clip_score_gap"] = (
        "validation_loss"
    )
    """Which number of the averaged weights decides. The loss, caption_gap and heard_colours are of the fixed triples
    that all approaches share; clip_score_gap is of the pictures that a trial draws, for who has no denoiser, and wants
    more of them (--pictures). Of the last three, what is heard of a caption, more is better."""
    pictures: Annotated[int, Range(1, 10_000_000)] = 8
    """Pictures that a trial draws, at most evaluate.pictures."""
    captions: Annotated[int, Range(1, 10_000_000)] = 64
    """Held-out pictures that a trial describes, at most evaluate.captions."""
    documents: Annotated[int, Range(1, 10_000_000)] = 16
    """Held-out documents for a trial's retention, at most evaluate.documents."""
    seeds: Annotated[int, Range(1, 10_000)] = 1
    """How many seeds every value is tried with: the config's, the next, and so on."""
    parallel: Annotated[int, Range(1, 10_000)] = 1
    """Trials at a time, as jobs of this machine that share its cores (see `array`)."""
    json: bool = False
    """Print the sweep's record as JSON."""

    def check(self, config: Config) -> None:
        """UserError where a sweep can't be done: an unknown field, a value that is not one of it, or what `run`
        refuses."""
        launch.refuse("sweep")
        if self.parallel > 1:
            from bench.array_arguments import check_submitit

            check_submitit()
        if self.rank_by == "caption_loss" and _spelt(self.field) in OTHER_TOKENS:
            raise UserError(
                f"--rank-by is caption_loss, which is by token, and --field {self.field} changes the tokens that "
                "count: expected validation_loss"
            )
        super().check(config)
        check_each(self, config, (point.config for point in points(self, config)))


def check_each(arguments: RunArguments, config: Config, configs: Iterable[Config]) -> None:
    """UserError where one of the configs that a field's values make can't be run here; seeds make no difference."""
    for own in dict.fromkeys(replace(each, seed=config.seed) for each in configs):
        check_names(own)
        RunArguments.check(arguments, own)


def points(arguments: SweepArguments, config: Config) -> tuple[Point, ...]:
    """The trials asked for, approach by approach, then value by value. UserError on the first that can't be."""
    base = shortened(arguments, config)
    found = []
    for approach in chosen(arguments.approach):
        settings = arguments.settings_for(approach, config)
        for value in values_of(arguments.field, arguments.values, approach, settings):
            own, changed = placed(arguments.field, value, base, settings, approach)
            for seed in range(config.seed, config.seed + arguments.seeds):
                point = Point(approach=approach, value=value, settings=changed, config=replace(own, seed=seed))
                found.append(point)
    return tuple(found)


def shortened(arguments: SweepArguments, config: Config) -> Config:
    """The config of a trial before its value is set: its share of the budget, the warm-up shrunk alike, one validation,
    and less to measure."""
    sizes = config.evaluate
    train = presets.shortened(config.train, share_of(arguments, config))
    return replace(
        config,
        train=replace(train, validations=1),
        evaluate=replace(
            sizes,
            pictures=min(sizes.pictures, arguments.pictures),
            captions=min(sizes.captions, arguments.captions),
            documents=min(sizes.documents, arguments.documents),
            other_texts=(),
        ),
    )


def share_of(arguments: SweepArguments, config: Config) -> float:
    """The share of the whole budget that a trial gets. UserError for steps that it does not hold."""
    train = config.train
    if arguments.steps is None:
        return arguments.share
    if train.budget not in ("images", "steps"):
        raise UserError(f"--steps counts steps, and train.budget is '{train.budget}': take --share")
    whole = train.amount / train.batch if train.budget == "images" else train.amount
    if arguments.steps > whole:
        raise UserError(f"--steps is {arguments.steps}, expected at most the whole budget of {whole:g} steps")
    return arguments.steps / whole


# ----------------------------------------------------------------------------------------------- the field's values


def values_of(field: str, words: Sequence[str], approach: str, settings: Any) -> tuple[Any, ...]:
    """The values of a field to try, numbers in ascending order. UserError on an unknown field, on words that are no
    values of it, and on fewer than two."""
    hint = _hint(field, approach, settings)
    words = words or (GRID if _spelt(field) == LEARNING_RATE else ())
    values = tuple(dict.fromkeys(parsed(word, hint, field) for word in words))
    if len(values) < 2:
        raise UserError(f"--values of {field} are to be compared: expected two or more, got {len(values)}")
    return tuple(sorted(values)) if ordered(values) else values


def ordered(values: Sequence[Any]) -> bool:
    """Whether values are numbers, and so have a smallest and a largest."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def placed(name: str, value: Any, config: Config, settings: Any, approach: str) -> tuple[Config, Any]:
    """Config and settings with the value in its place; beside another language model both are what that means by
    default. UserError where it is out of bounds, or fits no other field."""
    first, *rest = _spelt(name).split(".")
    if first == "settings":
        settings = _replaced(settings, rest, value)
        check_bounds(with_settings(RunArguments, settings)())
    else:
        before, config = config, _replaced(config, [first, *rest], value)
        if config.model.lm != before.model.lm:
            usual, given = settings_of(approach, before), vars(settings).items()
            changed = {name: told for name, told in given if told != getattr(usual, name)}
            config = presets.beside(config, config.model.lm)
            settings = replace(settings_of(approach, config), **changed)
        validate(config)
    return config, settings


def bounds_of(name: str, config: Config, settings: Any) -> Range | None:
    """The bounds of a swept number."""
    spelt = _spelt(name)
    own, path = (settings, spelt.removeprefix("settings.")) if spelt.startswith("settings.") else (config, spelt)
    return next((bounds for place, _, bounds in numbers(own) if place == path), None)


def parsed(word: str, hint: Any, name: str) -> Any:
    """A word of the command line as a value of an annotation; UserError where it is none."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if type(None) in kinds and word == "None":
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    if typing.get_origin(kind) is Literal:
        if word not in typing.get_args(kind):
            raise UserError(f"{name} is '{word}': {nearest(word, map(str, typing.get_args(kind)))}")
        return word
    if kind is bool and word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        if kind in (int, float, str):
            return kind(word)
    except ValueError:
        pass
    raise UserError(f"{name} is '{word}', expected {'true or false' if kind is bool else type_name(hint)}")


def _hint(name: str, approach: str, settings: Any) -> Any:
    """The annotation of a field that may be swept."""
    spelt = _spelt(name)
    for field, why in NO_TRIAL.items():
        if spelt == field or spelt.startswith(f"{field}."):
            raise UserError(f"--field is '{name}', {why}: expected another, such as {LEARNING_RATE}")
    own = dict(_leaves(type(settings), "settings."))
    known = {**own, **dict(_leaves(Config))}
    if spelt in known:
        return known[spelt]
    if groups := sorted(field for field in known if field.startswith(f"{spelt}.")):
        raise UserError(f"--field {name} is a group of fields, expected one of them, such as {groups[0]}")
    same_end = [field for field in known if field.rpartition(".")[2] == spelt.rpartition(".")[2]]
    hint = f"did you mean '{same_end[0]}'?" if same_end else nearest(spelt, known)
    if spelt.startswith("settings."):
        hint = hint if same_end else nearest(spelt, own)
        raise UserError(f"approach '{approach}' has no setting '{spelt.removeprefix('settings.')}': {hint}")
    raise UserError(f"unknown field '{name}': {hint}")


def _leaves(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from _leaves(hint, f"{prefix}{item.name}.")
        elif typing.get_origin(hint) is not tuple:
            yield f"{prefix}{item.name}", hint


def _spelt(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _replaced(whole: Any, names: Sequence[str], value: Any) -> Any:
    first, *rest = names
    return replace(whole, **{first: _replaced(getattr(whole, first), rest, value) if rest else value})
