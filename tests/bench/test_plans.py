"""A skill is measured by what is written: a frozen text keeps it whole, a broken one loses it, and each line is judged
by its own caption."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from approaches.base import Approach, Prompt
from approaches.registry import APPROACHES
from approaches.settings import Settings
from approaches.shared.language_model import LanguageModel
from bench import plans
from bench.config import Config, DataConfig, EvaluateConfig
from bench.data.scene import PLAN_PROMPT, plan_text
from bench.data.shapes import Shapes
from bench.errors import UserError
from bench.plans import PLANS, plan_metrics
from metrics.captioning import parse_caption
from metrics.differences import difference
from metrics.statistics import Estimate
from tests.approaches.small import small_shared

CONFIG = Config(data=DataConfig(seed=1, train_items=8, eval_items=6), evaluate=EvaluateConfig(captions=20))
SAMPLES = list(Shapes.build(replace(CONFIG.data, eval_items=20), "test").first(20))


def measured(approach: Approach, config: Config = CONFIG) -> dict[str, Estimate]:
    return plan_metrics(approach, small_shared().language_model, config)


def made(name: str) -> Approach:
    entry = APPROACHES[name]
    approach: Approach = entry.load()(small_shared(), entry.load_settings()())
    return approach.eval()


@pytest.mark.parametrize("name", list(APPROACHES))
def test_before_training_everybody_plans_as_the_language_model_does(name: str) -> None:
    found = measured(made(name))
    assert set(found) == set(PLANS)
    for estimate in found.values():
        assert estimate.value == estimate.details["base"] and estimate.n == 20 and estimate.unit == "share"
    assert found["plans_readable"].value == 1.0 and (found["plans_right"].value or 0) > 0.5


def test_a_broken_text_loses_the_skill_and_is_compared_caption_by_caption() -> None:
    whole, broken = made("full_retraining"), made("full_retraining")
    with torch.no_grad():
        for parameter in broken.language_model.parameters():
            parameter.mul_(1.3)
    kept, lost = measured(whole)["plans_right"], measured(broken)["plans_right"]
    assert (lost.value or 0) < 0.5 and lost.details["base"] == kept.value
    told = difference(kept, lost)
    assert told.paired and told.word == "better"


def test_side_by_side_each_caption_is_answered_as_alone() -> None:
    model = small_shared().language_model
    approach = made("dual_tower")
    lines = plans._answers(model, lambda ids: plans._opened(approach, ids), approach.text_step, SAMPLES, 3)
    assert len(lines) == len(SAMPLES)
    for sample, line in zip(SAMPLES[:6], lines, strict=False):
        alone = model.continue_text(PLAN_PROMPT.format(caption=sample.captions[0]), tokens=plans.TOKENS)
        assert line == alone.split("\n")[0]


class Writes(Approach):
    """Goes on with whatever line its function makes of a sample."""

    def __init__(self, line: Any) -> None:
        super().__init__(small_shared(), Settings())
        model = self.shared.language_model
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answers = {
            tuple(model.encode(PLAN_PROMPT.format(caption=sample.captions[0]))): [*model.encode(line(sample)), 0]
            for sample in SAMPLES
        }

    def losses(self, batch: Any, generators: Any) -> dict[str, Any]:
        raise NotImplementedError

    def blocks(self) -> list[torch.nn.Module]:
        return []

    def text_start(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        return torch.zeros(len(prompts), 1), None

    def text_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        rows = [tuple(row) for row in tokens.tolist()] if state is None else state[0]
        place = 0 if state is None else state[1]
        logits = torch.zeros(len(rows), tokens.shape[1], self.shared.language_model.transformer.config.vocabulary)
        for row, asked in enumerate(rows):
            answer = self.answers[asked]
            logits[row, -1, answer[min(place, len(answer) - 1)]] = 1.0
        return logits, (rows, place + 1)


def test_a_line_is_judged_by_its_own_caption_and_ends_with_the_line() -> None:
    found = measured(Writes(lambda sample: plan_text(sample.scene) + "\nand so on"))
    assert found["plans_readable"].value == found["plans_right"].value == 1.0
    other = {sample.key: SAMPLES[index - 1].scene for index, sample in enumerate(SAMPLES)}
    found = measured(Writes(lambda sample: plan_text(other[sample.key])))  # type: ignore[arg-type]
    assert found["plans_readable"].value == 1.0 and (found["plans_right"].value or 0) < 0.5
    other_paper = {"light": "dark", "dark": "light"}
    found = measured(Writes(lambda one: plan_text(replace(one.scene, background=other_paper[one.scene.background]))))
    claims = [parse_caption(sample.captions[0]) for sample in SAMPLES]
    named = sum(claim is not None and claim.background is not None for claim in claims)
    assert found["plans_right"].value == 1 - named / len(claims) < 1.0  # wrong for those that name it
    mirrored = {
        sample.key: replace(sample.scene, things=tuple(replace(o, x=1 - o.x, y=1 - o.y) for o in sample.scene.things))
        for sample in SAMPLES
        if sample.scene is not None
    }
    found = measured(Writes(lambda sample: plan_text(mirrored[sample.key])))
    related = sum(sample.scene is not None and sample.scene.relation is not None for sample in SAMPLES)
    assert found["plans_right"].value == 1 - related / len(SAMPLES) < 1.0  # what stood to the left stands to the right
    found = measured(Writes(lambda sample: "\n" + plan_text(sample.scene)))
    assert found["plans_readable"].value == found["plans_right"].value == 0.0 and found["plans_right"].high
    caption, own, written = found["plans_right"].details["answers"][0]
    assert caption == SAMPLES[0].captions[0] and own.startswith("plan: ") and written == ""


def test_a_language_model_without_the_skill_has_none_to_lose() -> None:
    shared = small_shared()
    transformer = copy.deepcopy(shared.language_model.transformer)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_()
    base = LanguageModel(transformer, shared.language_model.tokenizer, weights_hash="0")
    with pytest.raises(UserError, match="writes no plans: none of 16 captions"):
        plan_metrics(made("dual_tower"), base, CONFIG)
