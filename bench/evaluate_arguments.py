"""What the command line of `evaluate` takes. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from bench import finding
from bench.config import Config
from bench.errors import UserError
from bench.files import at_home
from bench.hands_on_arguments import PLACE, RUN
from bench.ranges import Range

Number = Annotated[int, Range(1, 10_000_000)]
COUNTS = ("pictures", "captions", "documents", "triples", "pairs", "memorised")
"""Options that say how much is measured."""


@dataclass(frozen=True, kw_only=True)
class MeasuringArguments:
    """What `evaluate` and `judge` measure with. An option that is not given stays as the run has it, or where there is
    no run, as a config has it by default."""

    clip: str | None = None
    """CLIP model: shipped:NAME, a folder with open_clip_config.json and weights, or MODEL/WEIGHTS; by default the
    run's, without one shipped:clip-tiny, which knows coloured shapes and emoji only."""
    extractor: str | None = None
    """Feature extractor: see `python -m bench list`; by default the run's, or evaluate.extractor."""
    extractor_input: Annotated[int, Range(32, 1024)] | None = None
    """Side in pixels that efficientnet_lite0 resizes pictures to; by default the run's, or evaluate.extractor_input."""
    inception: Path | None = None
    """File of Inception-v3's TensorFlow weights, for fid; by default where evaluate.inception looks."""

    def applied(self, config: Config) -> Config:
        """A config with the options that were given."""
        names = {item.name for item in dataclasses.fields(config.evaluate)}
        given = {name: value for name, value in vars(self).items() if name in names and value is not None}
        if self.inception is not None:
            given["inception"] = str(self.inception)
        model = config.model if self.clip is None else replace(config.model, clip=self.clip)
        return replace(config, evaluate=replace(config.evaluate, **given), model=model)

    def check(self, config: Config) -> None:
        """UserError where something to measure with is not there."""
        from approaches.shared.sources import check_clip
        from metrics.registry import EXTRACTORS

        if self.extractor is not None and (obstacle := EXTRACTORS[self.extractor].obstacle()):
            raise UserError(f"--extractor is '{self.extractor}', which can't run here: {obstacle}")
        if self.inception is not None and not at_home(self.inception).is_file():
            raise UserError(f"--inception {self.inception}: no such file, expected Inception-v3's weights")
        if self.clip is not None:
            check_clip(self.clip, "--clip")


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(MeasuringArguments):
    """Measure done runs again, without training, with today's code; what changed is told, and the record is written
    anew, beside the last one as record-before.json, which `compare` reads. An option that is not given stays as the
    run has it."""

    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN...")]] = field(default=(), metadata=PLACE)
    """Done runs: folders, the beginnings of their names or keys, or approaches' names for their latest."""
    out: Path = Path("runs")
    """Folder of the runs."""
    pictures: Number | None = None
    """Pictures drawn."""
    captions: Number | None = None
    """Pictures described."""
    documents: Number | None = None
    """Documents of the text corpus."""
    other_texts: tuple[str, ...] | None = None
    """Corpora that are not replayed: names of `python -m bench list`, files, folders, hub:ID; or nothing for none."""
    triples: Number | None = None
    """Triples of the validation loss."""
    pairs: Annotated[int, Range(0, 10_000_000)] | None = None
    """Pictures of combinations that training never showed."""
    memorised: Number | None = None
    """Pictures whose nearest training picture is looked for."""
    batch: Annotated[int, Range(1, 100_000)] | None = None
    """Rows at a time."""
    json: bool = False
    """Print JSON: what changed, by run."""

    @property
    def counts(self) -> bool:
        """Whether it was said how much is to be measured."""
        return any(getattr(self, name) is not None for name in COUNTS)

    def check(self, config: Config) -> None:
        """UserError where there is no run, no such done one, or something to measure with that is not there."""
        if not self.runs:
            raise UserError(f"'evaluate' needs RUN, {RUN}")
        for run in self.runs:
            finding.find(run, self.out)
        super().check(config)
