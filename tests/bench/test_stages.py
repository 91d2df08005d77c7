"""What the worker's stages refuse between training and measuring, and what they make of laps and counts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import launch, stages
from bench.errors import UserError
from bench.meter import Meter
from bench.plain import plain
from bench.presets import preset
from bench.run_arguments import changed, settings_of


def test_an_approach_that_is_built_otherwise_each_time_is_told_before_it_is_measured(monkeypatch: pytest.MonkeyPatch):
    run: Any = SimpleNamespace(
        config=None,
        console=None,
        device=torch.device("cpu"),
        folder=Path("x"),
        request=SimpleNamespace(approach="mine"),
    )
    monkeypatch.setattr(stages, "open_trained", lambda *_: SimpleNamespace(frozen_hash=lambda: "0123"))
    with pytest.raises(UserError, match="approach 'mine', built anew, has other frozen weights .*0123, not 4567"):
        stages.measure_run(run, {"frozen_hash": "4567"}, Path("x"))


@pytest.mark.parametrize(("processes", "mfu"), [(1, 0.2), (2, 0.1)])  # the peak is one process's
def test_a_step_s_speed_is_told_of_its_pictures_and_of_its_tokens_without_padding(
    processes: int, mfu: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(warmup=0)
    meter.laps = [(1.0, 2)] * 9
    batches: Any = SimpleNamespace(
        draw_rows=6,
        describe_rows=2,
        collection=SimpleNamespace(latents=torch.zeros(1, 4, 8, 8)),
        config=SimpleNamespace(train=SimpleNamespace(patch=2)),
        mask=torch.tensor([[True, True, True, False], [True, False, False, False]]),
    )
    monkeypatch.setattr(launch, "ranks", lambda: processes)
    found = {name: each.value for name, each in stages._speed(meter, batches, 100, 1000.0).items()}
    # two steps a second of 8 rows; a row has 16 patches, and a caption of 2 tokens in the mean
    expected = {"steps_per_second": 2, "images_per_second": 16, "tokens_per_second": 288, "mfu": mfu}
    assert found == pytest.approx(expected)


def test_the_optimizer_s_operations_are_in_what_training_took() -> None:
    trained = {"budgets": {"flops_per_step": 90.0, "steps": 4, "images": 8}}
    found = stages.budgets_of(trained, {"optimizer_flops_per_step": 10.0})
    assert (found.flops, found.flops_per_step, found.optimizer_flops_per_step) == (400.0, 100.0, 10.0)
    assert (found.steps, found.images) == (4, 8)


def test_what_a_preset_and_its_language_model_mean_are_an_approach_s_defaults():
    config = preset("small")
    settings = plain(settings_of("modular", config))
    assert changed("modular", settings, config) == []
    assert changed("modular", {**settings, "redraws": 9, "width": 97}, config) == ["redraws", "width"]
    assert "captioner_layers" in changed("modular", settings, preset("tiny"))
