"""What the gate measures of quality: a frozen approach's words are its base's to the last bit, or it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from approaches.base import Approach
from bench.gates import judge
from bench.gates.baseline import Baseline
from bench.gates.quality import frozen, quality, retention
from bench.gates.thresholds import load
from bench.gates.world import World


def test_retention_is_one_exactly_until_a_logit_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    approach = world.fresh("dual_tower").eval()
    assert frozen(approach) and not frozen(world.fresh("full_retraining"))
    assert retention(world, approach) == {"perplexity_retention": 1.0, "largest_difference": 0.0}
    own = approach.text_logits

    def moved(tokens: torch.Tensor) -> torch.Tensor:
        logits = own(tokens).clone()
        logits[0] *= 1.01
        return logits

    monkeypatch.setattr(approach, "text_logits", moved)
    found = retention(world, approach)
    assert 0 < found["largest_difference"] < 1 and found["perplexity_retention"] != 1.0


def test_an_approach_that_raises_is_told_and_takes_no_other_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = World.fresh

    def broken(world: World, name: str) -> Approach:
        if name == "dual_tower":
            raise RuntimeError("mat1 and mat2\nand more")
        return fresh(world, name)

    monkeypatch.setattr(World, "fresh", broken)
    limits = load()
    found = quality(World(tmp_path), limits, ["golden/dual_tower", "golden/projection"])
    assert found["golden/dual_tower"] == {"error": "RuntimeError: mat1 and mat2"}
    assert "diffusion" in found["golden/projection"]
    base = Baseline(names={"quality": [*found]})
    told = judge.quality(found, base, limits, "a machine", [*found], skip=True)
    (bad,) = (each for each in told if each.name == "golden/dual_tower")
    assert (bad.status, bad.said) == ("missing", "can't be run: RuntimeError: mat1 and mat2")
