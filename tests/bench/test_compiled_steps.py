"""What torch.compile makes of a training step: whole graphs, as few as a step has shapes, and none for later batches.

Traced only, so that no compiler is needed: whether machine code computes the same is test_training's question."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from approaches.registry import APPROACHES
from bench import training
from tests.gpu.shapes import SHAPES
from tests.gpu.stepping import ours

STEPS = 3
MOST = {"projection": 12}  # graphs; both halves of its connector and its denoiser have blocks of their own


@pytest.mark.slow
@pytest.mark.parametrize("name", APPROACHES)
def test_blocks_are_whole_graphs_which_later_batches_find_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = SHAPES["tiny"]
    narrow = replace(tiny.language_model, layers=2, width=64, heads=2, kv_heads=1, hidden=64)
    shape = replace(tiny, language_model=narrow, rows=6, window=8)
    torch._dynamo.reset()
    reached: set[int] = set()

    def compiled(function: Any) -> Any:
        graph = torch.compile(function, dynamic=False, backend="eager")

        def call(*inputs: Any, **options: Any) -> Any:
            reached.add(id(function.__self__))
            return graph(*inputs, **options)

        return call

    monkeypatch.setattr(training, "compiled_by_shape", compiled)
    stepper = ours(name, shape, torch.device("cpu"), different=STEPS)
    training.compile_blocks(stepper.model)  # type: ignore[arg-type]
    counters.clear()
    try:
        made = []
        for number in range(STEPS):
            assert torch.isfinite(stepper.step(number)).all()
            made.append(counters["stats"]["unique_graphs"])
        assert reached == set(map(id, stepper.model.blocks()))  # type: ignore[operator]  # frozen ones, too
        assert not counters["graph_break"]
        assert 0 < made[0] <= MOST.get(name, 7)
        assert made == made[:1] * STEPS
    finally:
        torch._dynamo.reset()
