"""Whether a skill that the language model came with is still there: writing a plan of a picture from its caption.

The shipped language model learned to answer PLAN_PROMPT with a line of objects and places. No approach is trained to,
so what is left of it says what training did to what nobody looked after; how likely a text is says less, for likelihood
may sink a little everywhere or all in one place. Asked of the approach as anybody asks it to go on with a text, through
`text_start` and `text_step`, and greedily.

B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from bench.held_out import LOGITS
from bench.measured import Names
from metrics.captioning import parse_caption
from metrics.statistics import Estimate, mean_estimate

PLANS: Names = {"plans_readable": ("share", "higher"), "plans_right": ("share", "higher")}
CAPTIONS = 128  # asked for a plan, at most
TRIED = 16  # asked of the language model first: most never learned to plan
TOKENS = 64  # of a plan: four objects take 40
Opened = Callable[[Tensor], tuple[Tensor, Any]]
"""Read token ids after the start token, B T: logits after each, B T V, and the state to go on from."""


def plan_metrics(approach: Approach, base: LanguageModel, config: Config, *, seed: int = 0) -> dict[str, Estimate]:
    """PLANS: the shares of held-out captions of `shapes` that are answered by a line that reads as a plan, and by one
    that has the objects, the relation and the background that its caption names. Details: `base`, that share of the
    language model that the approach started from; `answers`, of the first TRIED captions: caption, the base's line and
    the approach's.

    UserError where that one writes no plan, and so there is none to lose.
    """
    count = min(CAPTIONS, config.evaluate.captions)
    samples = list(Shapes.build(replace(config.data, eval_items=count), "test").first(count))
    rows, step = config.evaluate.batch, partial(next_logits, base.transformer)
    tried = _answers(base, partial(_base_opened, base), step, samples[:TRIED], rows)
    if not any(map(parse_plan, tried)):
        raise UserError(f"the language model writes no plans: none of {len(tried)} captions was answered with one")
    own = [*tried, *_answers(base, partial(_base_opened, base), step, samples[TRIED:], rows)]
    known, met = _judged(samples, own)
    written = _answers(base, partial(_opened, approach), approach.text_step, samples, rows)
    readable, right = _judged(samples, written)
    told: dict[str, Any] = {"keys": [sample.key for sample in samples], "seed": seed, "unit": "share"}
    asked = [sample.captions[0] for sample in samples[:TRIED]]
    answers = [list(answer) for answer in zip(asked, own, written, strict=False)]
    return {
        name: mean_estimate(items, better="higher", details={"base": sum(of) / len(of), "answers": answers}, **told)
        for name, items, of in (("plans_readable", readable, known), ("plans_right", right, met))
    }


def _judged(samples: Sequence[Sample], lines: Sequence[str]) -> tuple[list[float], list[float]]:
    """1 or 0 for each line: whether it reads as a plan, and whether it fulfils its caption."""
    readable, right = [], []
    for sample, line in zip(samples, lines, strict=True):
        plan, scene, claims = parse_plan(line), sample.scene, parse_caption(sample.captions[0])
        readable.append(float(plan is not None))
        met = plan is not None and scene is not None and satisfied(plan[0], scene.demands, scene.relation)
        right.append(float(met and plan is not None and claims is not None and claims.background in (None, plan[1])))
    return readable, right


@torch.no_grad()
def _answers(model: LanguageModel, opened: Opened, step: Step, samples: Sequence[Sample], most: int) -> list[str]:
    """The line that follows each caption; captions of as many tokens side by side, for then nothing is padded: at most
    `most` of them, and no more than LOGITS allows."""
    device = model.transformer.embed.weight.device
    asked = [model.encode(PLAN_PROMPT.format(caption=sample.captions[0])) for sample in samples]
    alike: defaultdict[int, list[int]] = defaultdict(list)
    for row, ids in enumerate(asked):
        alike[len(ids)].append(row)
    lines = [""] * len(samples)
    ended = _ended(model)
    for rows in _batches(alike, most, model.transformer.config.vocabulary):
        logits, state = opened(torch.tensor([asked[row] for row in rows], device=device))
        start = logits[:, -1], state
        written = decode(start, step, limit=TOKENS, end_id=model.end_id, allowed=ended)
        for row, ids in zip(rows, written, strict=True):
            lines[row] = model.decode(ids).split("\n")[0]
    return lines


def _batches(alike: Mapping[int, list[int]], most: int, vocabulary: int) -> Iterator[list[int]]:
    """Rows of as many tokens each, by that number, in batches."""
    for tokens, rows in alike.items():
        size = max(1, min(most, LOGITS // (tokens * vocabulary)))
        for first in range(0, len(rows), size):
            yield rows[first : first + size]


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
