"""docs/your-approach.md, as a reader would follow it: its files are installed by pip, run and held to the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.environment import ROOT
from reports import schema

PAGE = ROOT / "docs" / "your-approach.md"
GROWN = ROOT / "docs" / "approaches.md"
COUNTS = re.compile(r"`counts\(batch\)`, in the page's example\s+`(\{.*?\})`")
FILE = re.compile(r"```(?:toml|python)\n# (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package, as pip leaves it."""
    place = tmp_path_factory.mktemp("plain")
    files = FILE.findall(PAGE.read_text(encoding="utf-8"))
    assert [name for name, _ in files] == ["pyproject.toml", "plain_way/entry.py", "plain_way/model.py"]
    counts = COUNTS.search(GROWN.read_text(encoding="utf-8"))
    assert counts is not None  # what is told beside the page's files is held to the contract with them
    files[-1] = (files[-1][0], f"{files[-1][1]}\n    def counts(self, batch):\n        return {counts[1]}\n")
    for name, text in [*files, ("plain_way/__init__.py", "")]:
        path = place / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    words = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    pip(place, *words, "--target", str(place / "site"), str(place / "source"))
    return place / "site"


def pip(place: Path, *words: str) -> None:
    """Run it; its own words where it fails."""
    done = subprocess.run([sys.executable, *words], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def python(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A process that sees the installed package and this checkout."""
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, site)))}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=surroundings, capture_output=True, text=True)


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 150


def test_it_is_listed_and_its_flags_are_judged(installed: Path) -> None:
    assert "one linear layer shows pictures" in python(installed, "-m", "bench", "list").stdout
    wrong = python(installed, "-m", "bench", "run", "--approach", "plain", "--settings.width", "0")
    assert wrong.returncode == 2 and "width" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_a_stranger_s_approach_runs_to_a_record(installed: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.jsonl"
    words.write_text(
        "".join(f'{{"text": "document {n} says {n * n} things, and then some more"}}\n' for n in range(60))
    )
    flags = {
        "settings.width": 48,
        "settings.layers": 2,
        "data.train-items": 48,
        "data.eval-items": 16,
        "text.name": "file",
        "text.path": words,
        "train.amount": 24,
        "train.batch": 6,
        "train.replay-tokens": 8,
        "diffusion.nfe": 2,
        "evaluate.pictures": 6,
        "evaluate.captions": 5,
        "evaluate.documents": 2,
        "evaluate.triples": 8,
        "evaluate.batch": 4,
        "out": tmp_path / "runs",
    }
    spelled = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    done = python(installed, "-m", "bench", "run", "--approach", "plain", "--preset", "smoke", *spelled)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "runs").glob("plain-*")
    record = schema.load(folder)
    assert record.status == "done" and record.approach == "plain"
    assert record.metrics["perplexity_retention"].value == 1.0
    assert record.settings["width"] == 48


@pytest.mark.slow
def test_a_stranger_s_approach_is_held_to_the_contract(installed: Path) -> None:
    done = python(
        installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/approaches/test_contract.py", "-k", "plain"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b25 passed", done.stdout), done.stdout
