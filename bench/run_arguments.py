"""What the command line of `run` takes besides a config. Imports no torch.

With one approach, its own settings are options too: `--approach dual_tower --settings.variant gated`. With several,
those that all of them have: `--approach all --settings.learning-rate 2e-3`."""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from approaches.registry import ALL, APPROACHES
from bench import launch
from bench.config import Config, EvaluateConfig
from bench.errors import UserError, nearest
from bench.files import at_home, check_output
from bench.own_settings import check_asked, check_settings
from bench.parsing import last_values
from bench.plain import plain
from bench.presets import is_foreign
from bench.ranges import Range


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """Train approaches, draw, describe, measure, and keep a record of each: in a process of its own, resumed where it
    was cut off. One approach's settings are options too: --approach dual_tower --settings.variant gated; of several,
    those that all have: --settings.learning-rate 2e-3."""

    approach: tuple[str, ...] = (ALL,)
    """Which approaches: one, several, or all."""
    out: Path = Path("runs")
    """Folder that receives a folder a run."""
    seeds: Annotated[int, Range(1, 10_000)] = 1
    """How many seeds: the config's, the next, and so on."""
    json: bool = False
    """Print JSON: a list of runs with their state, metrics and pictures."""

    @classmethod
    def of_words(cls, words: Sequence[str], config: Config) -> type[RunArguments]:
        """The arguments to parse: where the words name one approach, with a field `settings` that is that approach's;
        where they set something of several, with one of what these have in common. UserError on a setting that one of
        them has not, and on an approach that does not exist."""
        names = chosen(last_values(words, "--approach") or (ALL,))
        stray = [word.split("=")[0].replace("_", "-") for word in words if word.startswith("--settings")]
        if len(names) == 1:
            return with_settings(cls, settings_of(names[0], config))
        for flag in stray:
            if last_values(words, flag) == ["None"]:
                raise UserError(f"{flag} is 'None', expected a value for all approaches asked for")
        return with_settings(cls, in_common(names, stray)) if stray else cls

    def settings_for(self, approach: str, config: Config) -> Any:
        """The settings of one of the approaches asked for."""
        own, usual = getattr(self, "settings", None), settings_of(approach, config)
        if isinstance(own, InCommon):
            return dataclasses.replace(usual, **{name: value for name, value in vars(own).items() if value is not None})
        return usual if own is None else own

    def check(self, config: Config) -> None:
        """UserError where a run can't be done here: data, text or models that are missing, a picture that does not
        divide into latents and patches, an unwritable folder."""
        from bench.data.catalogue import check_data
        from bench.data.text import check_path, check_text

        launch.check(chosen(self.approach), self.seeds)
        if not self.approach:
            raise UserError(f"--approach names none, expected one or more of: {', '.join((*APPROACHES, ALL))}")
        check_output(self.out, "--out")
        _check_outside(self.out)
        for name in chosen(self.approach):
            if obstacle := APPROACHES[name].obstacle():
                raise UserError(f"approach '{name}' can't run here: {obstacle}")
            check_asked(self.settings_for(name, config))
        check_data(config.data)
        check_text(config.text)
        check_path(config.text)
        _check_judges(config)
        _check_shape(config)


def _check_outside(out: Path) -> None:
    """UserError where runs would lie in a run's folder: no report would find them, and they would go with it."""
    from bench.store import REQUEST

    for folder in (place := Path(os.path.realpath(out)), *place.parents):
        if (folder / REQUEST).exists():
            raise UserError(
                f"--out {out}: {folder} is a run's folder, expected one that holds runs, such as the one above"
            )


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run to ask for, of several. settings, config: with the value in them that is varied, where one is."""

    approach: str
    settings: Any
    config: Config
    value: Any = None


@dataclass(frozen=True, kw_only=True)
class InCommon:
    """Base of what is made by `in_common`."""


def in_common(names: Sequence[str], flags: Sequence[str]) -> InCommon:
    """Settings that several approaches have alike, none of them given. UserError where one of the flags is of no such
    setting."""
    kinds = [APPROACHES[name].load_settings() for name in names]
    for name, kind in zip(names, kinds, strict=True):
        check_settings(name, kind)
    hints = [typing.get_type_hints(kind, include_extras=True) for kind in kinds]
    alike = [
        item.name
        for item in dataclasses.fields(kinds[0])
        if all(hint.get(item.name) == hints[0][item.name] for hint in hints)
    ]
    for flag in flags:
        if flag.removeprefix("--settings.").replace("-", "_") not in alike:
            raise UserError(
                f"{flag} is no setting that all of {', '.join(names)} have: name one approach, such as --approach "
                f"{names[0]}; they have in common {', '.join(alike)}"
            )
    told = arg(help="Of every approach asked for; by default each has its own.")
    fields = [(name, Annotated[hints[0][name] | None, told], dataclasses.field(default=None)) for name in alike]
    made: type[InCommon] = dataclasses.make_dataclass(
        "SettingsInCommon", fields, bases=(InCommon,), frozen=True, kw_only=True
    )
    return made()


def with_settings(base: type[RunArguments], settings: Any) -> type[RunArguments]:
    """The arguments with a field `settings`, whose default these are."""
    field = ("settings", type(settings), dataclasses.field(default=settings))
    made: type[RunArguments] = dataclasses.make_dataclass(
        base.__name__, [field], bases=(base,), frozen=True, kw_only=True
    )
    made.__doc__ = base.__doc__
    return made


def chosen(approaches: Sequence[str]) -> tuple[str, ...]:
    """The names asked for, each once, `all` spelt out. UserError on an unknown one."""
    known = tuple(APPROACHES)
    for name in approaches:
        if name != ALL and name not in known:
            raise UserError(f"unknown approach '{name}': {nearest(name, (*known, ALL))}")
    if ALL in approaches:
        return known
    return tuple(dict.fromkeys(approaches))


def settings_of(approach: str, config: Config) -> Any:
    """The settings that a config's preset means for an approach beside the config's language model."""
    kind = APPROACHES[approach].load_settings()
    check_settings(approach, kind)
    return kind.of_preset(config.preset, other_lm=is_foreign(config.model.lm))


def changed(approach: str, settings: Mapping[str, Any], config: Config) -> list[str]:
    """Names of the settings, as plain values, that are not what `settings_of` gives."""
    defaults = plain(settings_of(approach, config))
    return sorted(name for name, value in settings.items() if defaults.get(name) != value)


def _check_judges(config: Config) -> None:
    """Of an extractor that is not the preset's own, and of a file that is named: without one of its own choice a run
    goes without its distances, and says so."""
    from metrics.registry import EXTRACTORS

    extractor, path = config.evaluate.extractor, config.evaluate.inception
    if (obstacle := EXTRACTORS[extractor].obstacle()) and extractor != EvaluateConfig().extractor:
        raise UserError(f"evaluate.extractor is '{extractor}', which can't run here: {obstacle}")
    if path and not at_home(path).is_file():
        raise UserError(f"evaluate.inception is '{path}': no such file, expected Inception-v3's weights")


def _check_shape(config: Config) -> None:
    from approaches.shared.sources import check_clip, check_kind, resolve

    for name in ("lm", "vae"):
        check_kind(name, resolve(getattr(config.model, name), field=f"model.{name}"))
    check_clip(config.model.clip)
    source, size, patch = resolve(config.model.vae, field="model.vae"), config.data.size, config.train.patch
    factor = _factor(source.path) if source.path is not None else None
    if factor is None:
        return  # judged when it is loaded
    if size % (factor * patch):
        raise UserError(
            f"data.size is {size}, expected a multiple of {factor * patch}: '{config.model.vae}' shrinks pictures by "
            f"{factor}, and an image token is {patch} latents wide (train.patch)"
        )


def _factor(folder: Path) -> int | None:
    """How much an autoencoder shrinks pictures, as its config says; None where it does not say."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(2 ** (len(values.get("block_out_channels") or values["encoder_block_out_channels"]) - 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
