"""Whether a skill that the language model came with is still there: writing a plan of a picture from its caption.

The shipped language model learned to answer PLAN_PROMPT with a line of objects and places. No approach is trained to,
so what is left of it says what training did to what nobody looked after; how likely a text is says less, for likelihood
may sink a little everywhere or all in one place. Asked of the approach as anybody asks it to go on with a text, through
`text_start` and `text_step`, and greedily.

B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from approaches.base import Approach, Prompt
from approaches.shared.decoding import Step, decode
from approaches.shared.language_model import LanguageModel
from approaches.shared.prefix import Prefix
from approaches.shared.reading import next_logits
from bench.config import Config
from bench.data.dataset import Sample
from bench.data.scene import PLAN_PROMPT, parse_plan, satisfied
from bench.data.shapes import Shapes
from bench.errors import UserError
from bench.measured import Names
from metrics.statistics import Estimate, mean_estimate

PLANS: Names = {"plans_readable": ("share", "higher"), "plans_right": ("share", "higher")}
CAPTIONS = 128  # asked for a plan, at most
TRIED = 16  # asked of the language model first: most never learned to plan
TOKENS = 64  # of a plan: four objects take 40
Opened = Callable[[Tensor], tuple[Tensor, Any]]
"""Read token ids after the start token, B T: logits after each, B T V, and the state to go on from."""


def plan_metrics(approach: Approach, base: LanguageModel, config: Config, *, seed: int = 0) -> dict[str, Estimate]:
    """PLANS: the shares of held-out captions of `shapes` that are answered by a line that reads as a plan, and by one
    that fulfils its caption. Details: `base`, that share of the language model that the approach started from.

    UserError where that one writes no plan, and so there is none to lose.
    """
    count = min(CAPTIONS, config.evaluate.captions)
    samples = list(Shapes.build(replace(config.data, eval_items=count), "test").first(count))
    before = partial(_answers, base, partial(_base_opened, base), partial(next_logits, base.transformer))
    if not any(parse_plan(line) for line in before(samples[:TRIED])):
        raise UserError(
            f"the language model writes no plans: none of {min(TRIED, count)} captions was answered with one"
        )
    after = partial(_answers, base, partial(_opened, approach), approach.text_step)
    readable, right = _judged(samples, after(samples))
    known, met = _judged(samples, before(samples))
    told = {"keys": [sample.key for sample in samples], "seed": seed, "unit": "share"}
    return {
        name: mean_estimate(items, better="higher", details={"base": sum(own) / len(own)}, **told)  # type: ignore[arg-type]
        for name, items, own in (("plans_readable", readable, known), ("plans_right", right, met))
    }


def _judged(samples: Sequence[Sample], lines: Sequence[str]) -> tuple[list[float], list[float]]:
    """1 or 0 for each line: whether it reads as a plan, and whether it fulfils its caption."""
    plans = [parse_plan(line) for line in lines]
    right = [
        plan is not None
        and sample.scene is not None
        and satisfied(plan[0], sample.scene.demands, sample.scene.relation)
        for sample, plan in zip(samples, plans, strict=True)
    ]
    return [float(plan is not None) for plan in plans], [float(each) for each in right]


@torch.no_grad()
def _answers(model: LanguageModel, opened: Opened, step: Step, samples: Sequence[Sample]) -> list[str]:
    """The line that follows each caption; captions of as many tokens side by side, for then nothing is padded."""
    device = model.transformer.embed.weight.device
    asked = [model.encode(PLAN_PROMPT.format(caption=sample.captions[0])) for sample in samples]
    alike: defaultdict[int, list[int]] = defaultdict(list)
    for row, ids in enumerate(asked):
        alike[len(ids)].append(row)
    lines = [""] * len(samples)
    ended = _ended(model)
    for rows in alike.values():
        logits, state = opened(torch.tensor([asked[row] for row in rows], device=device))
        start = logits[:, -1], state
        written = decode(start, step, limit=TOKENS, end_id=model.end_id, allowed=ended)
        for row, ids in zip(rows, written, strict=True):
            lines[row] = model.decode(ids).split("\n")[0]
    return lines


def _ended(model: LanguageModel) -> Callable[[int, Sequence[int]], Tensor | None]:
    """Nothing may follow a token that ends the line."""
    size = model.transformer.config.vocabulary
    nothing = torch.zeros(size, dtype=torch.bool)
    return lambda _, tokens: nothing if tokens and "\n" in model.decode([tokens[-1]]) else None


def _opened(approach: Approach, ids: Tensor) -> tuple[Tensor, Any]:
    _, state = approach.text_start([Prompt.text("")] * len(ids))
    return approach.text_step(ids, state)


def _base_opened(model: LanguageModel, ids: Tensor) -> tuple[Tensor, Any]:
    started = torch.cat([torch.full_like(ids[:, :1], model.start_id), ids], 1)
    return next_logits(model.transformer, started, Prefix.nothing(len(ids), ids.device))
