"""A trained run as a model of lm-evaluation-harness (extra `lm-eval`): what its text lost on that harness's tasks.

    python -m bench.lm_eval_adapter run --model draw-bench --model_args run=dual_tower --tasks hellaswag
    python -m bench.lm_eval_adapter run --model draw-bench --model_args run=dual_tower,base=True --tasks hellaswag

The first is the run's text, through the whole adapted model; the second the language model that it started from, by
the same code. Everything after the module's name goes to lm_eval's own command line.

Every text is read after the start token, as in training. B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.errors import UserError, nearest
from bench.exits import MISTAKE
from bench.printable import printable
from bench.shadows import check_ours

if __name__ == "__main__":  # before anything of ours is imported that somebody's file may take the place of
    try:
        check_ours()
    except UserError as mistake:
        print(f"error: {printable(mistake)}", file=sys.stderr)
        sys.exit(MISTAKE)

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from approaches.base import Prompt
from approaches.shared.decoding import decode
from approaches.shared.prefix import Prefix
from approaches.shared.randomness import generator
from approaches.shared.reading import next_logits
from bench.assembly import untrained
from bench.hands_on import Trained, load

Pair = tuple[list[int], list[int]]
WRITTEN = 256  # most tokens of an answer where a task says nothing
HARNESS = {"device", "max_batch_size", "trust_remote_code"}  # what the harness gives every model


@register_model("draw-bench")
class DrawBenchLM(TemplateLM):  # type: ignore[misc]
    """run: a done run, as `python -m bench complete` takes it. out: folder of the runs. base: the language model that
    the run started from in place of what it became. batch_size: rows at a time. max_length: tokens of a window, the
    model's context where 0 (at most 4096).

    UserError where the run can't continue text, or there is none.
    """

    def __init__(
        self,
        run: str,
        out: str = "runs",
        base: bool = False,
        batch_size: int | str = 8,
        max_length: int = 0,
        **more: Any,
    ) -> None:
        super().__init__()
        if unknown := sorted(more.keys() - HARNESS):
            known = ("run", "out", "base", "batch_size", "max_length")
            raise UserError(f"--model_args has an unknown '{unknown[0]}': {nearest(unknown[0], known)}")
        trained: Trained = load(run, Path(out))
        if "complete" not in trained.approach.capabilities:
            raise UserError(f"run {trained.folder.name} can't continue text: its approach does not")
        self.trained, self.base = trained, None
        self.language_model = trained.approach.shared.language_model
        self._device = next(trained.approach.parameters()).device
        if base:
            self.base = untrained(trained.request, trained.approach.shared)
        context = self.language_model.transformer.config.context
        self.max_length = min(int(max_length) or 4096, context)
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 8

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return self.language_model.end_id

    @property
    def prefix_token_id(self) -> int:
        """The token that a text starts after."""
        return self.language_model.start_id

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache: whose tokenizer it is."""
        return self.trained.config.model.lm

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids, without special tokens."""
        return self.language_model.encode(string)

    def logits(self, tokens: Tensor) -> Tensor:
        """B T -> B T V, through the whole adapted model, or the base."""
        if self.base is not None:
            return self.base.transformer.logits(self.base.transformer(tokens))
        return self.trained.approach.text_logits(tokens)

    # ------------------------------------------------------------------------------------------------- scoring

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation after its context, and whether greedy decoding would write it. What
        is longer than a window is cut on the left."""
        pairs = [(self._opened(context), continuation) for _, context, continuation in requests]
        order = sorted(range(len(pairs)), key=lambda index: -len(pairs[index][0]) - len(pairs[index][1]))
        found: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            found.update(zip(rows, self._scored([pairs[index] for index in rows]), strict=True))
        for index, request in enumerate(requests):
            if request[0] is not None:
                self.cache_hook.add_partial("loglikelihood", request[0], found[index])
        return [found[index] for index in range(len(pairs))]

    def _opened(self, context: list[int]) -> list[int]:
        return context if context[:1] == [self.prefix_token_id] else [self.prefix_token_id, *context]

    def _scored(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """One batch. Padding stands on the right, where no token that counts sees it."""
        rows = [(context + continuation)[-self.max_length - 1 :] for context, continuation in pairs]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self._device)
        logs = self.logits(ids[:, :-1]).float().log_softmax(-1)
        found = []
        for index, (row, (_, continuation)) in enumerate(zip(rows, pairs, strict=True)):
            start = max(0, len(row) - 1 - len(continuation))
            targets = ids[index, start + 1 : len(row)]
            own = logs[index, start : len(row) - 1]
            total = float(own.gather(-1, targets[:, None]).double().sum())
            found.append((total, bool((own.argmax(-1) == targets).all())))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole texts, over the harness's own windows."""
        totals = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            # Not through _loglikelihood_tokens, which puts the start token before every context.
            pairs = [make_disjoint_window(window) for window in windows]
            total = 0.0
            with torch.no_grad():
                for first in range(0, len(pairs), self.batch_size):
                    total += sum(value for value, _ in self._scored(pairs[first : first + self.batch_size]))
            totals.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    # ------------------------------------------------------------------------------------------------- writing

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context: greedy unless a task asks to sample; up to the first of its stops."""
        found = []
        for number, request in enumerate(requests):
            context, options = request.args
            asked = normalize_gen_kwargs(options, WRITTEN)
            temperature = float(asked["temperature"]) if asked["do_sample"] else 0.0
            text = cut(self._continued(context, asked["max_gen_toks"], temperature, number), asked["until"])
            found.append(text)
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found

    def _continued(self, context: str, tokens: int, temperature: float, number: int) -> str:
        """At most `tokens` tokens after a context, fewer where both don't fit into the window: down to half of it. Then
        what is before the context's end is cut."""
        ids, room = self.tok_encode(context), self.max_length - 1
        tokens = min(tokens, max(room - len(ids), room // 2))
        ids = ids[-(room - tokens) :]
        logits, state, step = self._start(ids)
        draws = [generator(0, "write", number)] if temperature else []
        (row,) = decode(
            (logits, state), step, limit=tokens, end_id=self.eot_token_id, temperature=temperature, generators=draws
        )
        return self.language_model.decode(row)

    def _start(self, ids: list[int]) -> tuple[Tensor, Any, Callable[[Tensor, Any], tuple[Tensor, Any]]]:
        """Logits after a context, B V, the state to go on from, and the step that goes on. One start token stands
        before it, whether the context has its own or not."""
        start, *ids = self._opened(ids)
        rows = torch.tensor([ids], dtype=torch.long, device=self._device)
        if self.base is not None:
            opened = torch.tensor([[start, *ids]], device=self._device)
            step = partial(next_logits, self.base.transformer)
            logits, state = step(opened, Prefix.nothing(1, self._device))
            return logits[:, -1], state, step
        approach = self.trained.approach
        logits, state = approach.text_start([Prompt.text("")])
        if ids:
            following, state = approach.text_step(rows, state)
            logits = following[:, -1]
        return logits, state, approach.text_step


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops in it.

    >>> cut("one; two", [";", "z"])
    'one'
    """
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _titled(table: Any, titles: list[str]) -> None:
    table.header_list = titles


def main() -> None:
    """lm_eval's command line, with the model `draw-bench` known to it. A mistake in what is ours ends with 2."""
    from lm_eval.__main__ import cli_evaluate
    from pytablewriter import LatexTableWriter, MarkdownTableWriter

    for kind in (MarkdownTableWriter, LatexTableWriter):
        if not hasattr(kind, "headers"):  # the tested set's are older than this name, by which the harness titles them
            kind.headers = property(lambda table: table.header_list, _titled)
    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(MISTAKE)


if __name__ == "__main__":
    main()
