"""What the command line of `reproduce` takes besides a config. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from bench import array_arguments, launch, published
from bench.config import Config
from bench.errors import UserError
from bench.hands_on_arguments import PLACE
from bench.own_settings import check_asked
from bench.ranges import Range
from bench.run_arguments import RunArguments, settings_of


@dataclass(frozen=True, kw_only=True)
class ReproduceArguments:
    """Run every row of a published table at equal data and steps, with several seeds, and say of each of its orderings
    whether it holds here. Each run is done once, and resumed where it was cut off."""

    table: Positional[Annotated[str, arg(metavar="TABLE")]] = field(default="", metadata=PLACE)
    """Which table: x_fusion_table_1, lmfusion, transfusion_attention, lmd, or a JSON file of yours
    (docs/published-tables.md)."""
    out: Path = Path("reproductions")
    """Folder that receives a record a reproduction, and the runs' folders in runs/."""
    seeds: Annotated[int, Range(1, 10_000)] = 3
    """How many seeds: the config's, the next, and so on."""
    share: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Share of the config's budget that each run gets; warm-up shrinks alike, and the decay ends with it."""
    parallel: Annotated[int, Range(1, 10_000)] = 1
    """Runs at a time, as jobs of this machine that share its cores (see `array`)."""
    json: bool = False
    """Print the record as JSON."""

    def check(self, config: Config) -> None:
        """UserError where a table can't be run here."""
        launch.refuse("reproduce")
        if self.parallel > 1:
            array_arguments.check_submitit()
        if not self.table:
            raise UserError(f"'reproduce' needs a TABLE, expected one of: {', '.join(published.names())}")
        table = published.table(self.table)
        approaches = tuple(dict.fromkeys(row.approach for row in table.rows))
        config = published.config_for(table, config)
        RunArguments(approach=approaches, out=self.out).check(config)
        defaults = {name: settings_of(name, config) for name in approaches}
        for name, settings in published.settings_of_rows(table, defaults).items():
            try:
                check_asked(settings)
            except UserError as error:
                raise UserError(f"{self.table}: row '{name}': {error}") from error
