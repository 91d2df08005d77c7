"""What the command line of `preview` takes besides a config. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from bench.config import Config, DataConfig
from bench.errors import UserError
from bench.files import check_output
from bench.ranges import Range


@dataclass(frozen=True, kw_only=True)
class PreviewArguments:
    """Save contact sheets: pictures of datasets with their captions, and the VAE's reconstructions of them."""

    datasets: tuple[str, ...] | None = None
    """Which datasets to show: of a --data.path the one that reads it, else shapes and emoji."""
    out: Path = Path("preview")
    """Folder that receives one sheet a dataset, and with --vae three."""
    count: Annotated[int, Range(1, 1024)] = 36
    """Pictures a sheet."""
    vae: bool = False
    """Beside every picture, its reconstruction by model.vae."""

    def shown(self, config: Config) -> tuple[str, ...]:
        """The datasets' names."""
        if self.datasets is not None:
            return self.datasets
        return ("shapes", "emoji") if config.data.path is None else (config.data.name,)

    def data(self, name: str, config: Config) -> DataConfig:
        """The config of a dataset that is shown. The world of shapes reads no path: one that is given beside others is
        theirs."""
        path = None if name == "shapes" and self.shown(config) != ("shapes",) else config.data.path
        return replace(config.data, name=name, path=path)

    def check(self, config: Config) -> None:
        """UserError where a sheet can't be made here, or nothing reads a path that is given."""
        from bench.data.catalogue import check_data
        from bench.data.text import check_path

        if self.datasets == ():
            raise UserError("--datasets names none, expected one or more")
        check_output(self.out, "--out")
        for name in self.shown(config):
            check_data(self.data(name, config))
        check_path(config.text)  # no text is shown; but who mistypes its path is told so here as by `run`
        if self.vae:
            from approaches.shared.sources import resolve

            resolve(config.model.vae, field="model.vae")
