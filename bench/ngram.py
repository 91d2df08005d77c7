"""The three-gram model that a language model has to beat: interpolated, modified Kneser-Ney over token ids.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1998), section 3; n-grams at a
document's start keep their counts, as in KenLM (Heafield et al., 2013). Legend: u v w are three tokens in a row, w the
one predicted; V the size of the vocabulary; id V stands for the start of a document, in contexts only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

FALLBACK = (0.5, 1.0, 1.5)  # discounts where there are too few counts to estimate them, as in KenLM
LARGEST = 2_000_000  # of V, so that three ids fit in 63 bits


@dataclass(frozen=True, kw_only=True)
class Level:
    """One order of the model: p(w | context) = mass[context w] + backoff[context] * p of the order below.

    grams, contexts: sorted keys. A gram that isn't there has mass 0, a context that isn't has backoff 1.
    """

    grams: Ids
    mass: Floats
    contexts: Ids
    backoff: Floats

    def apply(self, context: Ids, w: Ids, base: int, lower: Floats) -> Floats:
        """p(w | context), given the order below."""
        return _look_up(self.grams, self.mass, context * base + w, 0.0) + lower * _look_up(
            self.contexts, self.backoff, context, 1.0
        )


class TrigramModel:
    """Probabilities of token ids below `vocabulary`, each given the two before it in its document."""

    def __init__(self, vocabulary: int, unigram: Floats, bigram: Level, trigram: Level) -> None:
        self.vocabulary = vocabulary
        self.unigram = unigram
        self.bigram = bigram
        self.trigram = trigram

    @classmethod
    def fit(cls, tokens: ArrayLike, vocabulary: int) -> TrigramModel:
        """Counts `tokens`, N > 0 ids of one document; memory is about 100 bytes a token. ValueError where ids are
        outside 0..vocabulary-1."""
        w = _checked(tokens, vocabulary)
        if len(w) == 0:
            raise ValueError("a trigram model needs at least one token")
        base = vocabulary + 1
        u, v = _contexts(w, start=vocabulary)
        grams, counts = np.unique((u * base + v) * base + w, return_counts=True)
        trigram = _level(grams, counts, base)
        # A lower order counts distinct tokens to the left, not occurrences; at a start there is nothing to the left.
        pairs, inverse, distinct = np.unique(grams % (base * base), return_inverse=True, return_counts=True)
        occurrences = np.bincount(inverse, weights=counts).astype(np.int64)
        bigram = _level(pairs, np.where(pairs // base == vocabulary, occurrences, distinct), base)
        continuations = np.bincount(pairs % base, minlength=vocabulary)
        discounts = _discounts(continuations)[np.minimum(continuations, 3)]
        total = continuations.sum()
        unigram = (continuations - discounts) / total + discounts.sum() / total / vocabulary
        return cls(vocabulary, unigram, bigram, trigram)

    def probabilities(self, u: ArrayLike, v: ArrayLike, w: ArrayLike) -> Floats:
        """p(w | u v), the three broadcast together; u, or u and v, may be `vocabulary`: a document's start."""
        shaped = np.broadcast_arrays(*(np.asarray(part, dtype=np.int64) for part in (u, v, w)))
        u_ids, v_ids, w_ids = (part.reshape(-1) for part in shaped)
        base = self.vocabulary + 1
        lower = self.bigram.apply(v_ids, w_ids, base, self.unigram[w_ids])
        return self.trigram.apply(u_ids * base + v_ids, w_ids, base, lower).reshape(shaped[0].shape)

    def log_probabilities(self, tokens: ArrayLike) -> Floats:
        """Natural log p of each of a document's N tokens given the two before it."""
        w = _checked(tokens, self.vocabulary)
        u, v = _contexts(w, start=self.vocabulary)
        return np.log(self.probabilities(u, v, w))


def _checked(tokens: ArrayLike, vocabulary: int) -> Ids:
    if not 0 < vocabulary <= LARGEST:
        raise ValueError(f"vocabulary is {vocabulary}, expected 1 to {LARGEST}")
    ids = np.asarray(tokens).astype(np.int64)
    if ids.ndim != 1:
        raise ValueError(f"tokens have {ids.ndim} axes, expected one")
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocabulary):
        raise ValueError(f"token ids span {ids.min()} to {ids.max()}, expected 0 to {vocabulary - 1}")
    return ids


def _contexts(w: Ids, start: int) -> tuple[Ids, Ids]:
    """The two tokens before each one, `start` where there is none."""
    before = np.concatenate([[start, start], w])
    return before[: len(w)], before[1 : len(w) + 1]


def _discounts(counts: NDArray[np.int64]) -> Floats:
    """What is taken from counts of 0, 1, 2 and at least 3 (Chen and Goodman, equation 26)."""
    n_1, n_2, n_3, n_4 = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if min(n_1, n_2, n_3, n_4) > 0:
        y = n_1 / (n_1 + 2 * n_2)
        estimated = (1 - 2 * y * n_2 / n_1, 2 - 3 * y * n_3 / n_2, 3 - 4 * y * n_4 / n_3)
        if all(0 < discount < count for count, discount in enumerate(estimated, start=1)):
            return np.array([0.0, *estimated])
    return np.array([0.0, *FALLBACK])


def _level(grams: Ids, counts: Ids, base: int) -> Level:
    """`grams` are sorted, so the grams of one context are neighbours."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    contexts, starts, sizes = np.unique(grams // base, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, starts)
    return Level(
        grams=grams,
        mass=(counts - discounts) / np.repeat(totals, sizes),
        contexts=contexts,
        backoff=np.add.reduceat(discounts, starts) / totals,
    )


def _look_up(keys: Ids, values: Floats, wanted: Ids, default: float) -> Floats:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], default)
