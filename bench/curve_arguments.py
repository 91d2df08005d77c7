"""What the command line of `curve` takes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from bench import finding
from bench.config import Config
from bench.errors import UserError
from bench.hands_on_arguments import PLACE, RUN
from bench.ranges import Range

Of = Literal["nfe", "guidance", "images", "batch"]
VALUES: dict[str, tuple[float, ...]] = {
    "nfe": (1, 2, 4, 8, 16, 32),
    "guidance": (1.0, 1.5, 2.0, 3.0, 5.0, 8.0),
    "images": (),
    "batch": (1, 4, 16),
}
"""What is tried where --values says nothing; for images a quarter and a half of the run's own."""
MOST = {"nfe": 10_000, "guidance": 1000, "images": 10**12, "batch": 100_000}
"""The largest value of each: of all but images as in the config."""


@dataclass(frozen=True, kw_only=True)
class CurveArguments:
    """A done run's quality against the network evaluations of a picture, the guidance scale, or the pictures trained
    on; or what drawing costs by pictures a batch: time, memory and, where it is counted, energy. The rows go into its
    record, in place of those of the same curve before. For images, the approach is trained anew with each smaller
    budget."""

    run: Positional[Annotated[str, arg(metavar="RUN")]] = field(default="", metadata=PLACE)
    """A done run: its folder, the beginning of its name or key, or an approach's name for its latest."""
    of: Of = "nfe"
    """What is varied."""
    values: tuple[Annotated[float, Range(0, 10**12)], ...] = ()
    """Values to try; by default 1 to 32 evaluations, guidance 1 to 8, a quarter and a half of the images, batches of
    1, 4 and 16. Guidance 1 is always among them."""
    pictures: Annotated[int, Range(2, 10_000_000)] = 128
    """Pictures drawn for each value; a Frechet distance of few is biased, equally for all values. For images, the runs'
    own number is taken. For batch, whose first batch does not count, no more are begun after 20 s; but 7 that count are
    drawn in any case."""
    out: Path = Path("runs")
    """Folder of the runs."""
    json: bool = False
    """Print JSON: the rows."""

    def check(self, config: Config) -> None:
        """UserError where there is no such done run, or a value that can't be."""
        if not self.run:
            raise UserError(f"'curve' needs RUN, {RUN}")
        for value in self.values:
            if value > MOST[self.of]:
                raise UserError(f"--values has {value:g}, expected at most {MOST[self.of]:,} for --of {self.of}")
            if self.of != "guidance" and (value != int(value) or value < 1):
                raise UserError(f"--values has {value:g}, expected whole numbers from 1 for --of {self.of}")
        finding.find(self.run, self.out)


def values_of(arguments: CurveArguments) -> tuple[float, ...]:
    """The values to try, in order, each once."""
    chosen = arguments.values or VALUES[arguments.of]
    return tuple(sorted({*chosen, 1.0} if arguments.of == "guidance" else set(chosen)))
