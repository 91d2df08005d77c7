"""What the command line of `preview` takes besides a config. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bench.config import Config
from bench.errors import UserError
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


def check(arguments: PreviewArguments, config: Config) -> None:
    """UserError where a sheet can't be made here."""
    from dataclasses import replace

    from bench.data.catalogue import check_data

    if arguments.datasets == ():
        raise UserError("--datasets names none, expected one or more")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out {arguments.out} is a file, expected a folder")
    for name in arguments.shown(config):
        # The world of shapes reads no path; a path in the config is another dataset's.
        check_data(replace(config.data, name=name, path=None if name == "shapes" else config.data.path))
    if arguments.vae:
        from approaches.shared.sources import resolve

        resolve(config.model.vae, field="model.vae")
