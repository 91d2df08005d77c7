"""The base of a comparison: a commit's files in a temporary folder, with the gate's own files as they are here."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import UserError

GATES = Path("bench") / "gates"
DATA = ("thresholds.toml", "baseline.json")


def base_of(root: Path, against: str) -> tuple[str, str]:
    """The commit to compare with, and "" or why there is none. UserError where a named one is unknown."""
    if against:
        found = _git(root, "rev-parse", "--verify", "--quiet", f"{against}^{{commit}}")
        if found is None:
            raise UserError(
                f"--against is '{against}', which is no commit of this checkout, expected a commit, branch or tag"
            )
        return found, ""
    if _git(root, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        return "", "this is no git checkout"
    parent = _git(root, "rev-parse", "--verify", "--quiet", "HEAD^1^{commit}")
    if parent is None:
        return "", "the commit has no parent here: it is the first, or the clone is shallow"
    return parent, ""


@contextmanager
def checked_out(root: Path, commit: str) -> Iterator[Path]:
    """A commit's files, without touching this checkout or its list of worktrees. The gate's own code is this tree's, so
    that both sides are asked the same; its thresholds and baseline stay as the commit has them, beside, in `before`."""
    with tempfile.TemporaryDirectory(prefix="bench-gate-base-") as name:
        tree = Path(name).resolve() / "tree"
        packed = subprocess.run(
            ["git", "-C", str(root), "archive", "--format=tar", commit], capture_output=True, env=_env(), check=False
        )
        if packed.returncode:
            raise UserError(f"git can't give the files of {commit[:12]}: {packed.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extraction_filter = getattr(
                tarfile, "data_filter", None
            )  # Python 3.11.3 has none, and asks for none
            archive.extractall(tree)
        before = tree.with_name("before")
        before.mkdir()
        for file in DATA:
            if (tree / GATES / file).exists():
                shutil.copy(tree / GATES / file, before / file)
        shutil.rmtree(tree / GATES, ignore_errors=True)
        shutil.copytree(root / GATES, tree / GATES, ignore=shutil.ignore_patterns("__pycache__"))
        yield tree


def before(tree: Path, file: str) -> Path:
    """Where a base's own thresholds or baseline lie."""
    return tree.with_name("before") / file


def _git(root: Path, *words: str) -> str | None:
    """What git prints; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, env=_env(), timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _env() -> dict[str, str]:
    """Inside a git hook, GIT_DIR and its like name the hook's repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
