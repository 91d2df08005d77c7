"""What the command line of `clean` takes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.config import Config
from bench.errors import UserError, nearest
from bench.files import check_output

KINDS = {
    "caches": "pictures, latents, features, tokens, texts, verdicts and unpacked GGUF files that any run makes again",
    "checkpoints": "what runs that are not done would go on from; they start again without",
    "weights": "trained weights of done runs: their records stay, but they draw no more",
    "unfinished": "whole folders of runs that are not done, their records with them",
    "done": "whole folders of done runs, their records with them",
}
"""What can be freed, and what that means."""


@dataclass(frozen=True, kw_only=True)
class CleanArguments:
    """Free disk space, by kind. Without --delete nothing is deleted: it only says what each kind would free. A run at
    work is left alone; a done run's record goes only with the kind `done`."""

    what: tuple[str, ...] = ()
    """Kinds to free: caches, checkpoints, weights, unfinished, done."""
    out: Path = Path("runs")
    """Folder of the runs."""
    delete: bool = False
    """Delete what --what names; without it this is a dry run."""
    dry_run: bool = False
    """Delete nothing, whatever else is said."""
    json: bool = False
    """Print JSON: kind -> bytes, paths and whether they are deleted."""

    def check(self, config: Config) -> None:
        """UserError on an unknown kind, or where nothing is named to be deleted."""
        for name in self.what:
            if name not in KINDS:
                raise UserError(f"--what is '{name}': {nearest(name, KINDS)}")
        if self.delete and not self.what:
            raise UserError(f"--delete needs --what, one or more of: {', '.join(KINDS)}")
        check_output(self.out, "--out")
        if self.out != CleanArguments().out and not self.out.exists():
            raise UserError(f"--out {self.out} is not there, expected the folder of some runs")
