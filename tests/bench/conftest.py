"""One real run at micro scale, shared by the tests of what a run leaves and of what it can do."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench import runner
from bench.config import Config, DiffusionConfig, EvaluateConfig, TrainConfig
from bench.console import Console
from bench.run_arguments import RunArguments
from tests.bench import ways


@dataclass(frozen=True, kw_only=True)
class MicroRun:
    """A run's config, the folder of its runs, and its own."""

    config: Config
    out: Path
    folder: Path


def micro(folder: Path) -> Config:
    """Twelve steps of six pictures, a checkpoint after each, and a little of every measurement."""
    return replace(
        ways.micro(folder),
        diffusion=DiffusionConfig(nfe=2),
        train=TrainConfig(
            amount=72.0, batch=6, warmup=2, ema=0.8, validations=2, replay_tokens=8, checkpoint_seconds=0.0
        ),
        evaluate=EvaluateConfig(pictures=6, captions=5, documents=2, triples=8, batch=4),
    )


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> MicroRun:
    """A done run of one approach, never interrupted."""
    place = tmp_path_factory.mktemp("micro")
    config, out = micro(place), place / "runs"
    assert runner.main(RunArguments(approach=("dual_tower",), out=out), config, Console(interval=1e9)) == 0
    (folder,) = out.glob("dual_tower-*")
    return MicroRun(config=config, out=out, folder=folder)


@pytest.fixture
def copy(micro_run: MicroRun, tmp_path: Path) -> Path:
    """The run's own folder, whose record others read, copied."""
    folder = tmp_path / "runs" / micro_run.folder.name
    shutil.copytree(micro_run.folder, folder)
    return folder
