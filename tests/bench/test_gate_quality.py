"""What the gate measures of quality: a frozen approach's words are its base's to the last bit, or it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.gates.quality import frozen, retention
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
