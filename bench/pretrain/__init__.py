"""Making the shipped weights: the VAE, the language model and the CLIP of a preset. Importing this imports no torch."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config import Config

if TYPE_CHECKING:
    from bench.console import Console
    from bench.pretrain.arguments import PretrainArguments


def main(arguments: PretrainArguments, config: Config, console: Console) -> int:
    """Make the models that the arguments name, one after another, each into OUT/KIND-PRESET with its card.

    A run that was cut off goes on from its checkpoints in OUT/.work; those of finished models are removed. A model that
    is there already, whole and of the same recipe and data, is left as it is."""
    from bench.pretrain.card import finished, write

    for kind in arguments.only:
        name = f"{kind}-{config.preset}"
        out, work = arguments.out / name, arguments.out / ".work" / name
        if finished(kind, config, out):
            console.info(f"{name}: done already, by this recipe of this data; without {out} it is made anew")
            continue
        if (out / "card.json").exists():
            console.info(f"{name}: {out} holds another, or one that has changed: it is made anew")
        module = importlib.import_module(f"bench.pretrain.{kind}")
        facts: dict[str, Any] = module.pretrain(config, work=work, out=out, console=console)
        write(kind, config, facts, out)
        _remove(work)
        console.info(f"{name}: {out} (its quality: {out / 'README.md'})")
    return 0


def _remove(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    if work.parent.is_dir() and not any(work.parent.iterdir()):
        work.parent.rmdir()
