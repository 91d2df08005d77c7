"""What the command line of `pretrain` takes besides a config. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.config import Config
from bench.errors import UserError
from bench.files import check_output

MODELS: tuple[Literal["lm", "vae", "clip"], ...] = ("lm", "vae", "clip")


@dataclass(frozen=True, kw_only=True)
class PretrainArguments:
    """Make the tiny weights that every approach starts from."""

    only: tuple[Literal["lm", "vae", "clip"], ...] = MODELS
    """Which models to make."""
    out: Path = Path("weights")
    """Folder that receives one folder a model; a run that was cut off there goes on where it stopped."""

    def check(self, config: Config) -> None:
        """UserError where the pretraining can't run here: nothing to make, no corpus, no font, an unwritable folder."""
        from bench.data.text import check_path, check_text

        if not self.only:
            raise UserError(f"--only names nothing to make, expected one or more of: {', '.join(MODELS)}")
        if config.data.path:
            raise UserError(
                f"--data.path {config.data.path}: pretrain draws its own pictures, shapes and emoji, and reads no "
                "others: leave it out; `python -m bench run --data.path` trains on yours"
            )
        check_output(self.out, "--out")
        shares = {"vae": config.pretrain.vae.emoji_share, "clip": config.pretrain.clip.emoji_share}
        if any(shares.get(model, 0.0) > 0 for model in self.only):
            from bench.data.fonts import PACKAGE, find_font

            if find_font() is None:
                raise UserError(
                    f"no colour-emoji font found: install {PACKAGE}, or train without: --pretrain.vae.emoji-share 0 "
                    "--pretrain.clip.emoji-share 0"
                )
        if "lm" in self.only:
            check_text(config.text)
            check_path(config.text)
