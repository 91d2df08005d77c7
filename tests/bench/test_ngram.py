"""The trigram model against its definition, and against data whose structure is known."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest

from bench.ngram import FALLBACK, TrigramModel

Gram = tuple[int, ...]


def slow_discounts(counts: Counter[Gram]) -> tuple[float, float, float]:
    """Chen and Goodman's equation 26."""
    n = Counter(counts.values())
    if not all(n[count] for count in (1, 2, 3, 4)):
        return FALLBACK
    y = n[1] / (n[1] + 2 * n[2])
    found = (1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
    return found if all(0 < d < count for count, d in enumerate(found, start=1)) else FALLBACK


class SlowTrigrams:
    """The same model from the formula, with dictionaries and a loop for each sum."""

    def __init__(self, document: list[int], vocabulary: int) -> None:
        self.vocabulary, start = vocabulary, vocabulary
        padded = [start, start, *document]
        raw: Counter[Gram] = Counter(zip(padded, padded[1:], padded[2:], strict=False))
        lefts: dict[Gram, set[int]] = defaultdict(set)
        started: Counter[Gram] = Counter()
        for (u, v, w), count in raw.items():
            lefts[v, w].add(u)
            if v == start:
                started[v, w] += count
        bigrams = Counter({gram: started.get(gram, len(found)) for gram, found in lefts.items()})
        unigrams: Counter[Gram] = Counter((w,) for _, w in bigrams)
        self.levels = [unigrams, bigrams, raw]

    def probability(self, *gram: int) -> float:
        """p of the last token given those before it."""
        if not gram:
            return 1 / self.vocabulary
        counts = self.levels[len(gram) - 1]
        discount = slow_discounts(counts)
        following = [count for other, count in counts.items() if other[:-1] == gram[:-1]]
        lower = self.probability(*gram[1:])
        if not following:
            return lower
        count = counts.get(gram, 0)
        taken = discount[min(count, 3) - 1] if count else 0.0
        spare = sum(discount[min(other, 3) - 1] for other in following)
        return (count - taken) / sum(following) + spare / sum(following) * lower


def test_two_tokens_worked_by_hand() -> None:
    # Corpus [0, 0] over {0, 1}; too small for estimated discounts, so they are 0.5, 1, 1.5.
    # Order 1: token 0 follows two distinct tokens (start, 0): (2 - 1) / 2 + 1/2 * 1/2 = 0.75.
    # Order 2: (1 - 0.5) / 1 + 0.5 * 0.75 = 0.875. Order 3: 0.5 + 0.5 * 0.875 = 0.9375.
    model = TrigramModel.fit([0, 0], vocabulary=2)
    start = 2
    np.testing.assert_allclose(model.unigram, [0.75, 0.25])
    assert model.probabilities(start, 0, 0) == pytest.approx(0.9375)
    assert model.probabilities(0, 0, 0) == pytest.approx(0.875)  # (0, 0) was never a context: order 2
    assert model.probabilities(0, 1, 0) == pytest.approx(0.75)  # nor was 1: order 1
    np.testing.assert_allclose(model.log_probabilities([0, 0]), np.log([0.9375, 0.9375]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    vocabulary = 7
    tokens = (generator.zipf(1.5, size=300) % vocabulary).tolist()
    model = TrigramModel.fit(tokens, vocabulary)
    slow = SlowTrigrams(tokens, vocabulary)
    contexts = [*itertools.product(range(vocabulary), repeat=2)]
    contexts += [(vocabulary, token) for token in range(vocabulary)] + [(vocabulary, vocabulary)]
    for u, v in contexts:
        expected = [slow.probability(u, v, w) for w in range(vocabulary)]
        np.testing.assert_allclose(model.probabilities(u, v, np.arange(vocabulary)), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 50, 20_000])
def test_probabilities_over_the_vocabulary_sum_to_one(size: int) -> None:
    generator = np.random.default_rng(size)
    vocabulary = 300
    tokens = generator.zipf(1.3, size=size) % (vocabulary // 2)  # the other half is never seen
    model = TrigramModel.fit(tokens, vocabulary)
    contexts = generator.integers(0, vocabulary + 1, size=(200, 2))  # mostly unseen
    contexts[: min(size, 100) - 1] = np.stack([tokens[:-1], tokens[1:]], axis=1)[:99]  # seen
    table = model.probabilities(contexts[:, :1], contexts[:, 1:], np.arange(vocabulary))
    assert table.min() > 0
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-9, rtol=0)


def test_discounts_are_estimated_where_counts_allow() -> None:
    generator = np.random.default_rng(5)
    tokens = generator.zipf(1.3, size=5_000) % 50
    counts: Counter[Gram] = Counter(zip(tokens.tolist(), tokens[1:].tolist(), tokens[2:].tolist(), strict=False))
    assert slow_discounts(counts) != FALLBACK
    model = TrigramModel.fit(tokens, 50)
    np.testing.assert_allclose(model.probabilities(3, 4, 5), SlowTrigrams(tokens.tolist(), 50).probability(3, 4, 5))


def test_nears_the_entropy_of_a_markov_source_and_beats_the_unigram() -> None:
    generator = np.random.default_rng(3)
    vocabulary, size = 12, 60_000
    table = generator.dirichlet(np.full(vocabulary, 0.2), size=(vocabulary, vocabulary))
    cumulative = table.cumsum(axis=2)
    tokens = [0, 1]
    for draw in generator.random(size):
        tokens.append(min(vocabulary - 1, int(np.searchsorted(cumulative[tokens[-2], tokens[-1]], draw))))
    train, held_out = np.array(tokens[:50_000]), np.array(tokens[50_000:])
    model = TrigramModel.fit(train, vocabulary)
    cross_entropy = -model.log_probabilities(held_out)[2:].mean()
    truth = -np.log(table[held_out[:-2], held_out[1:-1], held_out[2:]]).mean()
    unigram = -np.log(np.bincount(train, minlength=vocabulary) / len(train))[held_out].mean()
    assert truth - 1e-9 < cross_entropy < truth + 0.02
    assert cross_entropy < unigram - 0.5


@pytest.mark.parametrize(("tokens", "message"), [([], "at least one token"), ([0, 5], "0 to 4"), ([-1], "0 to 4")])
def test_refuses_ids_out_of_range(tokens: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrigramModel.fit(tokens, 5)


def test_no_tokens_have_no_log_probabilities() -> None:
    assert TrigramModel.fit([0], 5).log_probabilities([]).shape == (0,)
