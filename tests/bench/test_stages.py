"""What the worker's stages refuse between training and measuring."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import stages
from bench.errors import UserError


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
