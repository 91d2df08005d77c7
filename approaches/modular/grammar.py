"""The grammar of plans, letter by letter, and as masks over any tokenizer's tokens.

    plan: large red circle 2 4; small blue square 6 1; dark

one to MOST objects, a background, the end of the line; exactly what `bench.data.scene.parse_plan` reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from approaches.modular.layout import MOST
from approaches.shared.decoding import Allowed
from bench.data.scene import BACKGROUNDS, COLOURS, GRID, SHAPES, SIZES

_DIGITS = tuple(map(str, range(GRID)))
_END = -1
# What may stand at each place of a plan, and the place that follows; an object is places 1 to 5.
_FIELDS: tuple[dict[str, int], ...] = (
    {"plan: ": 1},
    {**{f"{size} ": 2 for size in SIZES}, **{f"{background}\n": _END for background in BACKGROUNDS}},
    {f"{colour} ": 3 for colour in COLOURS},
    {f"{shape} ": 4 for shape in SHAPES},
    {f"{digit} ": 5 for digit in _DIGITS},
    {f"{digit}; ": 1 for digit in _DIGITS},
)


class State(NamedTuple):
    """Where in a plan a text has come to: the place, the letters of its word so far, the objects before it."""

    field: int = 0
    letters: str = ""
    objects: int = 0


def advance(state: State, text: str) -> State | None:
    """The state after further text; None where no plan goes on so."""
    for letter in text:
        letters = state.letters + letter
        words = _fitting(state, letters)
        if not words:
            return None
        if words == [letters]:  # no word of a place begins with another
            following = _FIELDS[state.field][letters]
            state = State(following, "", state.objects + (state.field == len(_FIELDS) - 1))
        else:
            state = State(state.field, letters, state.objects)
    return state


def _fitting(state: State, letters: str) -> list[str]:
    """The words of a state's place that begin so."""
    return [word for word in _words(state) if word.startswith(letters)]


def _words(state: State) -> list[str]:
    if state.field == _END:
        return []  # as an index it would be the last place's
    words = _FIELDS[state.field]
    if state.field != 1 or 0 < state.objects < MOST:
        return list(words)
    end = state.objects == MOST
    return [word for word, following in words.items() if (following == _END) is end]


class PlanGrammar:
    """Which tokens may follow, for a vocabulary. texts: what each token writes; "" for those that may never come.

    Every state's mask is made once, on first use."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self._starting: dict[str, list[int]] = defaultdict(list)
        for token, text in enumerate(texts):
            if text:
                self._starting[text[0]].append(token)
        self._following: dict[State, dict[int, State]] = {}
        self._masks: dict[State, Tensor] = {}

    @classmethod
    def of(cls, tokenizer: Any, vocabulary: int) -> PlanGrammar:
        """For a transformers tokenizer and a model whose vocabulary may be larger."""
        return cls(token_texts(tokenizer, vocabulary))

    def following(self, state: State) -> dict[int, State]:
        """The tokens that may follow, each with the state after it."""
        if state not in self._following:
            found = {}
            for letter in {word[len(state.letters)] for word in _fitting(state, state.letters)}:
                for token in self._starting.get(letter, ()):
                    after = advance(state, self.texts[token])
                    if after is not None:
                        found[token] = after
            self._following[state] = found
        return self._following[state]

    def mask(self, state: State) -> Tensor:
        """V bool."""
        if state not in self._masks:
            mask = torch.zeros(len(self.texts), dtype=torch.bool)
            mask[list(self.following(state))] = True
            self._masks[state] = mask
        return self._masks[state]

    def allowed(self) -> Allowed:
        """For one decoding: it remembers how far each row has come."""
        rows: dict[int, tuple[int, State]] = {}

        def allowed(row: int, tokens: Sequence[int]) -> Tensor:
            length, state = rows.get(row, (0, State()))
            for token in tokens[length:]:
                state = self.following(state)[token]
            rows[row] = len(tokens), state
            return self.mask(state)

        return allowed

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens write."""
        return "".join(self.texts[token] for token in tokens)


def token_texts(tokenizer: Any, vocabulary: int) -> list[str]:
    """What each token adds to a text that has begun, "" for special tokens, for ids that the tokenizer lacks and for
    parts of a letter. Alone, tokenizers of sentencepiece's kind write no leading space; so each stands after another.
    """
    known = min(vocabulary, len(tokenizer))
    anchor = tokenizer.encode(":", add_special_tokens=False)[-1]
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = tokenizer.decode([anchor], **options)
    whole = tokenizer.batch_decode([[anchor, token] for token in range(known)], **options)
    special = set(tokenizer.all_special_ids)
    texts = []
    for token, text in enumerate(whole):
        fits = token not in special and text.startswith(before) and "\N{REPLACEMENT CHARACTER}" not in text
        texts.append(text[len(before) :] if fits else "")
    return texts + [""] * (vocabulary - known)
