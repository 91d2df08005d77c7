"""Who writes the plan: the language model under a grammar, rules, the true scene, or nobody. Once a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from approaches.modular.grammar import PlanGrammar
from approaches.modular.layout import Plan
from approaches.modular.rules import names_shapes, rule_plan
from approaches.shared.decoding import decode
from approaches.shared.language_model import LanguageModel, pad_rows
from approaches.shared.prompts import last_logits
from approaches.shared.reading import next_logits, read
from bench.data.scene import PLAN_PROMPT, Scene, parse_plan, plan_text
from bench.errors import UserError

ROWS = 256  # plans decoded side by side
LEAST = 16  # tokens that PLAN_PROMPT and a few words take
EXAMPLES = (
    (
        "a small red circle left of a large blue square on a dark background",
        "plan: small red circle 1 4; large blue square 5 3; dark",
    ),
    (
        "three green triangles",
        "plan: small green triangle 1 2; small green triangle 4 5; small green triangle 6 1; light",
    ),
    ("a picture of a yellow square", "plan: large yellow square 3 3; light"),
    ("an orange cross above a purple triangle", "plan: large orange cross 4 1; small purple triangle 4 6; light"),
)
"""Captions and plans of theirs, for a language model that was shown none."""


UNPARSED = "the plan does not parse"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One prompt's plan. text: as written. plan: as parsed, None for an empty layout, and then `reason` says why.

    parsed: None where nobody tried to write one. tokens: what writing took, whenever that was.
    """

    source: str
    text: str = ""
    plan: Plan | None = None
    reason: str = ""
    tokens: int = 0

    @property
    def parsed(self) -> bool | None:
        """Whether what was written is a plan."""
        if self.reason == UNPARSED:
            return False
        return True if self.plan is not None else None


class Planner:
    """Plans of prompts by one of four arms: lm, rules, oracle, empty. Not a module: it has no weights of its own.

    tokens: of the longest plan. examples: how many of EXAMPLES the language model reads before a caption."""

    def __init__(self, language_model: LanguageModel, *, arm: str, tokens: int, examples: int = 0) -> None:
        self.language_model, self.arm, self.tokens = language_model, arm, tokens
        self._before = "".join(PLAN_PROMPT.format(caption=text) + f"{plan}\n" for text, plan in EXAMPLES[:examples])
        context, before = language_model.transformer.config.context, len(language_model.encode(self._before))
        if arm == "lm" and tokens + before + LEAST > context:
            raise UserError(
                f"settings.plan_tokens is {tokens}: model.lm reads {context} tokens, caption and plan"
                + (f", and settings.plan_examples take {before}: lower either" if before else ": lower it")
            )
        self._grammar: PlanGrammar | None = None
        self._written: dict[str, Planned] = {}

    def plan(self, words: Sequence[str], scenes: Sequence[Scene | None], *, anew: bool = False) -> list[Planned]:
        """A plan for each prompt: its words and, for the oracle alone, its scene. anew: each is written again, as a
        drawing whose costs are measured must; validation asks for the same prompts many times."""
        if self.arm == "lm":
            asked = [text for text in words if names_shapes(text)]
            self._write(asked if anew else [text for text in dict.fromkeys(asked) if text not in self._written])
        return [self._one(text, scene) for text, scene in zip(words, scenes, strict=True)]

    def _one(self, words: str, scene: Scene | None) -> Planned:
        if self.arm == "empty":
            return Planned(source="empty", reason="nobody plans")
        if self.arm == "oracle":
            return self._read("oracle", plan_text(scene)) if scene else Planned(source="oracle", reason="unknown scene")
        if not names_shapes(words):
            return Planned(source=self.arm, reason="the prompt names nothing that a plan can hold")
        return self._written[words] if self.arm == "lm" else self._read("rules", rule_plan(words) or "")

    @staticmethod
    def _read(source: str, text: str, *, tokens: int = 0) -> Planned:
        plan = parse_plan(text)
        reason = "" if plan else UNPARSED
        return Planned(source=source, text=text, plan=plan, reason=reason, tokens=tokens)

    # ----------------------------------------------------------------------------------------- the language model's

    def _write(self, words: Sequence[str]) -> None:
        """Let the language model plan, most alike in length side by side."""
        ordered = sorted(words, key=lambda text: (len(text), text))
        for first in range(0, len(ordered), ROWS):
            rows = ordered[first : first + ROWS]
            for text, (plan, tokens) in zip(rows, self.write(rows), strict=True):
                self._written[text] = self._read("lm", plan, tokens=tokens)

    @torch.no_grad()
    def write(self, words: Sequence[str]) -> list[tuple[str, int]]:
        """The language model's greedy plans under the grammar, and the tokens of each."""
        model = self.language_model
        if self._grammar is None:
            self._grammar = PlanGrammar.of(model.tokenizer, model.transformer.config.vocabulary)
        ids, mask = self._asked(words)
        hidden, prefix = read(model.transformer, ids, mask=mask)
        start = last_logits(model.transformer, hidden, mask), prefix
        allowed = self._grammar.allowed()
        step = partial(next_logits, model.transformer)
        found = decode(start, step, limit=self.tokens, end_id=model.end_id, allowed=allowed)
        return [(self._grammar.text(tokens).strip(), len(tokens)) for tokens in found]

    def _asked(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The examples, and PLAN_PROMPT around each caption, cut so that the plan fits behind it: ids and mask, B L."""
        model = self.language_model
        device = model.transformer.embed.weight.device
        asked = len(model.encode(self._before + PLAN_PROMPT.format(caption="")))
        room = model.transformer.config.context - self.tokens - asked - 2
        rows = []
        for text in words:
            caption = " ".join(text.split())
            kept = model.encode(caption)
            caption = caption if len(kept) <= room else model.decode(kept[:room])
            rows.append([model.start_id, *model.encode(self._before + PLAN_PROMPT.format(caption=caption))])
        ids, mask = pad_rows(rows)
        return ids.to(device), mask.to(device)
