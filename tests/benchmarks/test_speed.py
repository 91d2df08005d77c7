"""Every timed case of the gates, under pytest-benchmark: groups to compare by, what a number is to be read with, and a
file of theirs that `python -m bench gate --benchmarks FILE` judges for what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from approaches.registry import APPROACHES
from bench.gates import baseline, thresholds
from bench.gates.cases import cases
from bench.gates.world import World

CASES = cases()
ROUNDS = 5

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One small world for all, with the threads that the gate has."""
    before = torch.get_num_threads()
    torch.set_num_threads(thresholds.load().threads)
    yield World(tmp_path_factory.mktemp("gates"))
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CASES)
def test_speed(name: str, world: World, benchmark: BenchmarkFixture) -> None:
    case = CASES[name]
    benchmark.group = case.group
    benchmark.extra_info.update(case.info(world))
    benchmark.pedantic(case.setup(world), rounds=ROUNDS, warmup_rounds=1)
    if benchmark.enabled:
        assert benchmark.stats is not None
        assert benchmark.stats.stats.rounds == ROUNDS


def test_every_approach_and_every_shared_part_is_timed() -> None:
    groups = {case.group for case in CASES.values()}
    assert groups == {
        "training_step", "denoising_step", "caption_token", "latent_encode", "latent_decode", "feature_extraction",
        "metric_computation", "report_build",
    }  # fmt: skip
    assert {f"training_step/{name}" for name in APPROACHES} <= set(CASES)


def test_the_gate_expects_these_cases_and_no_others() -> None:
    assert set(CASES) == set(baseline.load(Path(baseline.FILE)).names["speed"])
