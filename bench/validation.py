"""Judges a whole config before anything heavy is imported: bounds of every number, what fields ask of each other, and
the names of datasets, corpora, presets and models. Imports no torch."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from approaches.shared.samplers import SAMPLERS
from bench.config import Config, DiffusionConfig, LmPretrainConfig, ModelConfig, TrainConfig
from bench.errors import UserError, nearest
from bench.ranges import Range


def numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float, Range | None]]:
    """Every number in a dataclass, at any depth: its dotted path, its value and its bounds, None where it has none.

    A tuple of numbers gives each under `path[i]`; a field that is None now gives nothing. A class that declares a
    base's field again without bounds keeps those of the base.
    """
    kinds = [kind for kind in type(config).__mro__ if dataclasses.is_dataclass(kind)]
    hints = [typing.get_type_hints(kind, include_extras=True) for kind in kinds]
    for field in dataclasses.fields(config):
        path, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{path}.")
        elif isinstance(value, tuple):
            bounds = _bounds(hints, field.name)
            yield from ((f"{path}[{i}]", item, bounds) for i, item in enumerate(value) if _number(item))
        elif _number(value):
            yield path, value, _bounds(hints, field.name)


def check_bounds(config: Any, prefix: str = "") -> None:
    """UserError that names the first field outside its bounds, its value and the bounds. NaN is outside every bound."""
    for path, value, bounds in numbers(config, prefix):
        if bounds is not None and not bounds.holds(value):
            raise UserError(f"{path} is {value}, expected {describe(bounds)}")


def describe(bounds: Range) -> str:
    """The bounds in words.

    >>> describe(Range(8, 1024, multiple=4))
    'a multiple of 4 from 8 to 1024'
    """
    kind = f"a multiple of {bounds.multiple}" if bounds.multiple > 1 else "a value"
    low = f"above {bounds.low:g} and" if bounds.above else f"from {_plain(bounds.low)}"
    return f"{kind} {low} {'up ' if bounds.above else ''}to {_plain(bounds.high)}"


def validate(config: Config) -> None:
    """UserError on the first number out of bounds, or pair of fields that don't fit each other."""
    check_bounds(config)
    _check_sampler(config.diffusion)
    _check_batch(config.train)
    _check_language_model(config.pretrain.lm)
    vae, clip = config.pretrain.vae, config.pretrain.clip
    if not vae.channels:
        raise UserError("pretrain.vae.channels is empty, expected one width a resolution, such as 32 64 80")
    factor = 2 ** (len(vae.channels) - 1)
    if config.data.size % factor:
        raise UserError(
            f"data.size is {config.data.size}, expected a multiple of {factor}, by which a VAE with "
            f"{len(vae.channels)} pretrain.vae.channels shrinks pictures"
        )
    if config.data.size % clip.patch:
        raise UserError(f"pretrain.clip.patch is {clip.patch}, expected a divisor of data.size, {config.data.size}")


def check_names(config: Config) -> None:
    """UserError on a dataset, corpus or model that is unknown or can't be what it says. A model left at its default is
    not judged here: what needs it says so when it looks for it."""
    from approaches.shared.sources import check_clip, resolve
    from bench.data.catalogue import DATASETS
    from bench.data.other_texts import named
    from bench.data.text import TEXTS
    from metrics.registry import EXTRACTORS

    for registry, section in ((DATASETS, config.data), (TEXTS, config.text)):
        registry[section.name]
    named(config)
    default = ModelConfig()
    if config.model.encoder and (obstacle := EXTRACTORS[config.model.encoder].obstacle()):
        raise UserError(f"model.encoder is '{config.model.encoder}', which can't run here: {obstacle}")
    for field in dataclasses.fields(ModelConfig):
        if field.name == "encoder":
            continue
        if (text := getattr(config.model, field.name)) != getattr(default, field.name):
            check_clip(text) if field.name == "clip" else resolve(text, field=f"model.{field.name}")


def _check_sampler(diffusion: DiffusionConfig) -> None:
    fitting = SAMPLERS[diffusion.prediction]
    if diffusion.sampler not in fitting:
        raise UserError(
            f"diffusion.sampler is '{diffusion.sampler}', which can't follow diffusion.prediction "
            f"'{diffusion.prediction}': {nearest(diffusion.sampler, fitting)}"
        )
    if diffusion.prediction != "flow" and diffusion.shift != 1:
        raise UserError(
            f"diffusion.shift is {diffusion.shift:g}, and only the prediction 'flow' has a time shift: expected 1 "
            f"beside diffusion.prediction '{diffusion.prediction}'"
        )
    if diffusion.prediction != "flow" and diffusion.nfe > diffusion.train_times:
        raise UserError(
            f"diffusion.nfe is {diffusion.nfe}, expected at most diffusion.train_times, {diffusion.train_times}"
        )


def _check_batch(train: TrainConfig) -> None:
    described = train.describe_rows
    if train.describe_share and not described:
        raise UserError(
            f"train.describe_share is {train.describe_share}, which describes none of train.batch's {train.batch} "
            f"pictures: expected about {1 / train.batch:.7g}, which describes one, or 0"
        )
    if described >= train.batch:
        raise UserError(
            f"train.describe_share is {train.describe_share}, which leaves none of train.batch's {train.batch} "
            f"pictures to draw: expected {(train.batch - 1) / train.batch:.7g} or less, which leaves one"
        )
    fewest = min(rows for rows in (train.batch - described, described) if rows)
    if train.accumulation > fewest:
        raise UserError(
            f"train.accumulation is {train.accumulation}, and a batch has {train.batch - described} pictures to draw "
            f"and {described} to describe, of which every part needs one: expected {fewest} or less"
        )


def _check_language_model(lm: LmPretrainConfig) -> None:
    if lm.width % lm.heads:
        raise UserError(f"pretrain.lm.width is {lm.width}, expected a multiple of pretrain.lm.heads, {lm.heads}")
    if lm.width // lm.heads % 2:
        raise UserError(
            f"pretrain.lm.width / pretrain.lm.heads is {lm.width // lm.heads}, expected an even number: "
            "rotary positions turn pairs"
        )
    if lm.heads % lm.kv_heads:
        raise UserError(f"pretrain.lm.kv_heads is {lm.kv_heads}, expected a divisor of pretrain.lm.heads, {lm.heads}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bounds(hints: Sequence[Mapping[str, Any]], field: str) -> Range | None:
    """Of a field: the first that its class or, in their order, a base says."""
    found = (_range(hint[field]) for hint in hints if field in hint)
    return next((item for item in found if item is not None), None)


def _range(hint: Any) -> Range | None:
    """The Range in an annotation, at any depth of it: `Annotated[int, Range(...)] | None`, `tuple[Width, ...]`."""
    for item in getattr(hint, "__metadata__", ()):
        if isinstance(item, Range):
            return item
    found = (_range(argument) for argument in typing.get_args(hint) if argument is not hint)
    return next((item for item in found if item is not None), None)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"
