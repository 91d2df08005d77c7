"""What an approach's own traces say of its drawing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from approaches.base import Prompt
from bench import costs
from bench.config import Config, DiffusionConfig, EvaluateConfig
from bench.costs import drawing_costs, traced
from bench.meter import machine
from bench.sampler import Drawn
from metrics.differences import difference
from metrics.statistics import COUNTED, Estimate


def test_only_plans_that_somebody_wrote_are_read_or_corrected():
    trace: list[dict[str, Any]] = [
        {"rounds": 1, "parsed": None, "corrected": False},  # a rule's
        {"rounds": 0, "parsed": True, "corrected": True},
        {"rounds": 1, "parsed": True, "corrected": False},
        {"rounds": 0, "parsed": False, "corrected": False},
    ]
    found = traced(trace)
    assert {name: (estimate.value, estimate.n) for name, estimate in found.items()} == {
        "redraws": (0.5, 4), "plans_unread": (1 / 3, 3), "plans_corrected": (1 / 3, 3),
    }  # fmt: skip
    assert set(traced(trace[:1])) == {"redraws"}
    judged: list[dict[str, Any]] = [{"rounds": 2, "accepted": True}, {"rounds": 1, "accepted": False}, {"rounds": 0}]
    again = traced(judged)["redraws_accepted"]
    assert (again.value, again.n) == (0.5, 2)
    assert traced([]) == {} and traced([{"anything": 1}]) == {}


@pytest.mark.parametrize(("guidance", "expected"), [(1.0, 5 + 100 * 4), (3.0, 5 + 2 * 100 * 4 + 1 / 2)])
def test_costs_are_a_pictures_and_guidance_doubles_its_evaluations(
    guidance: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = itertools.cycle([9.0, 1.0, 1.0, 2.0, 1.0, 1.0, 2.0])  # the first does not count
    clock = [0.0]

    def draw(*_: Any, **__: Any) -> Any:
        clock[0] += next(tries)
        return SimpleNamespace(latents=None, nfe=[1])

    monkeypatch.setattr(costs, "now", lambda: clock[0])
    monkeypatch.setattr(costs, "draw", draw)
    work = {"a red circle": 5, "": 1}  # the caption of the median length, and guidance's, read once a batch
    monkeypatch.setattr(costs, "flops_per_evaluation", lambda _, __, words: {"condition": work[words], "denoise": 100})
    monkeypatch.setattr(costs, "flops_of_prompt", lambda _, words: work[words])
    approach: Any = torch.nn.Linear(1, 1)
    approach.capabilities = frozenset({"denoise", "generate"})
    approach.prompts = lambda texts, _: list(map(Prompt.text, texts))
    decode = SimpleNamespace(decode_images=lambda latents: latents)
    approach.shared = SimpleNamespace(diffusion=None, codecs={"image": decode})
    collection: Any = SimpleNamespace(
        latents=torch.zeros(3, 4, 8, 8), captions=[("three large blue squares",), ("a red circle",), ("a",)],
        scenes=[None] * 3, keys=("a", "b", "c"),
    )  # fmt: skip
    collection = type("Three", (SimpleNamespace,), {"__len__": lambda self: 3})(**vars(collection))
    drawn = Drawn(
        latents=torch.zeros(3, 4, 8, 8), first=None, nfe=[2, 4, 6], tokens=30, seconds=[(4.0, 2), (1.0, 1)],
        parts={"plan": 1.5},
    )  # fmt: skip
    config = Config(diffusion=DiffusionConfig(guidance=guidance), evaluate=EvaluateConfig(batch=2))
    found: dict[str, Estimate] = drawing_costs(approach, drawn, collection, config)
    flops = found["flops_per_image"]
    assert flops.value == pytest.approx(expected) and flops.low is not None and flops.low < expected
    told = difference(flops, Estimate.counted(1000 * expected, unit="FLOP", better="lower"))
    assert told.word == "better" and told.estimate.low is not None  # a mean beside a count: the count has no width
    alike = drawing_costs(approach, replace(drawn, nfe=[4, 4, 4]), collection, config)["flops_per_image"]
    assert alike.value == pytest.approx(expected) and alike.reason == COUNTED
    assert found["planner_tokens"].value == 10 and found["planner_tokens"].reason != COUNTED
    assert found["seconds_per_image_plan"].value == 0.5
    for name, rows in (("seconds_per_image", 2), ("seconds_per_image_plan", 2), ("seconds_to_first_image", 1)):
        how = found[name].details  # of a clock: how it was read
        assert (how["rows"], how["machine"]) == (rows, machine("cpu")), name
    assert found["seconds_per_image"].value == 2.0 and found["nfe"].value == 4
    assert found["seconds_to_first_image"].value == 1.0 and found["seconds_to_first_image"].n == 6
    assert found["seconds_to_first_image"].high == 2.0  # the slowest of six


def test_a_timed_batch_is_of_the_captions_at_its_places_and_ends_with_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], list[Any]()

    def draw(_: Any, prompts: Any, __: Any, **more: Any) -> Any:
        clock[0] += 2.0
        asked.append(([prompt.words for prompt in prompts], more["batch"], more["first"]))
        return SimpleNamespace(latents=None, nfe=[1] * len(prompts))

    def decode(_: Any) -> None:
        clock[0] += 0.5

    monkeypatch.setattr(costs, "now", lambda: clock[0])
    monkeypatch.setattr(costs, "draw", draw)
    approach: Any = torch.nn.Linear(1, 1)
    approach.prompts = lambda texts, _: list(map(Prompt.text, texts))
    approach.shared = SimpleNamespace(diffusion=None, codecs={"image": SimpleNamespace(decode_images=decode)})
    three = type("Three", (SimpleNamespace,), {"__len__": lambda self: 3})(
        latents=torch.zeros(3, 4, 8, 8), captions=[("a", "another"), ("b",), ("c",)], scenes=[None] * 3
    )
    spent, drawn = costs.to_pixels(approach, three, range(2, 5), Config(), first=2)
    assert spent == 2.5 and drawn.nfe == [1, 1, 1]
    assert asked == [(["c", "a", "b"], 3, 2)]  # after the last the first again
