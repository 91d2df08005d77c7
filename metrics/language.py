"""Language modelling: bits per byte and perplexity over rolling windows, and what an adapted model kept of its base.

Windows are lm-evaluation-harness' (`get_rolling_token_windows` at context length 1, made disjoint): every token is
predicted once; the first window follows the start token, each full window the one token before it, and the last one, if
shorter, as much text as fits. Base and adapted model see the same ids in the same windows and batches.

D documents, B windows in a batch, T tokens in a window, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.files import hash_bytes
from metrics.statistics import Better, Estimate, bootstrap

LARGEST = 1e100  # of a ratio and its interval: one can still calculate with it

Floats = NDArray[np.float64]
Logits = Callable[[Tensor], Tensor]
"""Token ids B T -> logits B T V of the token after each."""

RULE = "lm-evaluation-harness rolling windows, context 1"
TAIL = 0.99
TAIL_RESAMPLES = 400


@dataclass(frozen=True, kw_only=True)
class Window:
    """Ids that a model reads, and the ids that follow the last len(targets) of them, which it is judged by."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Of each document, a number a token: -log p by the base and by the adapted model and KL(base || adapted), in nats,
    and whether both would say the same token."""

    base: tuple[Floats, ...]
    adapted: tuple[Floats, ...]
    divergence: tuple[Floats, ...]
    agreement: tuple[Floats, ...]


def rolling_windows(tokens: Sequence[int], *, start: int, length: int) -> list[Window]:
    """The windows of a document, of at most `length` inputs each; none of an empty one. ValueError for length < 1."""
    if length < 1:
        raise ValueError(f"windows of {length} tokens, expected at least 1")
    whole = [start, *tokens]
    windows = []
    for begin in range(0, len(tokens), length):
        end = min(begin + length, len(tokens))
        first = begin if end - begin == length or begin == 0 else end - length
        windows.append(Window(inputs=tuple(whole[first:end]), targets=tuple(whole[begin + 1 : end + 1])))
    return windows


def compare(
    adapted: Logits,
    base: Logits,
    documents: Sequence[Sequence[int]],
    *,
    start: int,
    length: int,
    batch: int = 16,
    device: torch.device | str = "cpu",
) -> Compared:
    """Both models on the same windows and batches, token by token: documents of ids without the start token, in float32
    by log_softmax."""
    tables = [[np.zeros(len(document)) for document in documents] for _ in range(4)]
    for ids, rows in _batches(documents, start=start, length=length, batch=batch, device=device):
        for row, old, new in zip(rows, _log_probabilities(base, ids), _log_probabilities(adapted, ids), strict=True):
            judged = slice(-row.targets.shape[0], None)
            each = torch.where(old.isneginf(), 0.0, old.exp() * (old - new))  # what never happens diverges by nothing
            divergence = each[judged].sum(-1)
            equal = (old.argmax(-1) == new.argmax(-1))[judged]
            values = (-row.pick(old), -row.pick(new), divergence.double().cpu().numpy(), equal.double().cpu().numpy())
            for table, value in zip(tables, values, strict=True):
                table[row.document][row.place] = value
    names = ("base", "adapted", "divergence", "agreement")
    return Compared(**dict(zip(names, map(tuple, tables), strict=True)))


@dataclass(frozen=True)
class _Row:
    """Where a window's numbers belong."""

    document: int
    place: slice
    targets: Tensor

    def pick(self, log_p: Tensor) -> Floats:
        """Log probabilities T V -> those of the targets, in double precision."""
        chosen = log_p[-self.targets.shape[0] :].gather(-1, self.targets[:, None])[:, 0]
        found: Floats = chosen.double().cpu().numpy()
        return found


def _batches(
    documents: Sequence[Sequence[int]], *, start: int, length: int, batch: int, device: torch.device | str
) -> Iterator[tuple[Tensor, list[_Row]]]:
    """Ids of up to `batch` windows of one length, which needs no padding, and where they belong; longest first."""
    by_length: dict[int, list[tuple[Window, int, slice]]] = {}
    for number, document in enumerate(documents):
        place = 0
        for window in rolling_windows(document, start=start, length=length):
            where = slice(place, place + len(window.targets))
            by_length.setdefault(len(window.inputs), []).append((window, number, where))
            place = where.stop
    for _, group in sorted(by_length.items(), reverse=True):
        for first in range(0, len(group), batch):
            part = group[first : first + batch]
            rows = [_Row(number, where, torch.tensor(window.targets, device=device)) for window, number, where in part]
            yield torch.tensor([window.inputs for window, _, _ in part], device=device), rows


@torch.no_grad()
def _log_probabilities(logits: Logits, ids: Tensor) -> Tensor:
    found = logits(ids)
    if found.shape[:2] != ids.shape:
        raise ValueError(f"logits of shape {tuple(found.shape)} for ids of shape {tuple(ids.shape)}")
    return found.float().log_softmax(-1)


def language_metrics(
    compared: Compared,
    sizes: Sequence[int],
    *,
    length: int,
    batch: int = 16,
    keys: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """`perplexity`, `bits_per_byte`, `perplexity_retention`, `kl_base_adapted` (mean a token),
    `kl_base_adapted_p99` (the 99th percentile of the tokens) and `top1_agreement` of an adapted model.

    Every number is a ratio of sums over documents, with a bootstrap over documents, which are the same for both models.
    sizes: UTF-8 bytes of each document's text, for bits per byte. keys: the documents' names, else places and lengths.
    Details: `documents` (tokens, bytes, base_nats, adapted_nats, kl and agreed of each), the windows, and `per_item`:
    the documents' contributions, to first order, whose mean is the number, for comparisons document by document.
    Missing where there are no tokens.
    """
    sums = {
        "tokens": np.array([len(values) for values in compared.base], dtype=np.float64),
        "bytes": np.asarray(sizes, dtype=np.float64),
        "base_nats": np.array([values.sum() for values in compared.base]),
        "adapted_nats": np.array([values.sum() for values in compared.adapted]),
        "kl": np.array([values.sum() for values in compared.divergence]),
        "agreed": np.array([values.sum() for values in compared.agreement]),
    }
    if len(sums["bytes"]) != len(sums["tokens"]):
        raise ValueError(f"{len(sums['bytes'])} sizes for {len(sums['tokens'])} documents")
    facts = zip(sums["tokens"].tolist(), sums["bytes"].tolist(), strict=True)
    names = keys if keys is not None else [f"{number}: {fact}" for number, fact in enumerate(facts)]
    shared = {
        "documents": {name: values.tolist() for name, values in sums.items()},
        "windows": RULE,
        "window": length,
        "batch": batch,
        "items": hash_bytes(*names),
    }
    made = _Maker(sums=sums, seed=seed, details=shared)
    kept = sums["base_nats"] - sums["adapted_nats"]
    found = {
        "perplexity": made.ratio(sums["adapted_nats"], sums["tokens"], exp, better="lower"),
        "bits_per_byte": made.ratio(sums["adapted_nats"] / math.log(2), sums["bytes"], better="lower", unit="bits"),
        "perplexity_retention": made.ratio(kept, sums["tokens"], exp, better="higher"),
        "kl_base_adapted": made.ratio(sums["kl"], sums["tokens"], better="lower", unit="nats"),
        "top1_agreement": made.ratio(sums["agreed"], sums["tokens"], better="higher", unit="share"),
    }
    return found | {"kl_base_adapted_p99": made.tail(compared.divergence)}


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Estimates of documents' sums."""

    sums: Mapping[str, Floats]
    seed: int
    details: Mapping[str, Any]

    def ratio(
        self,
        over: Floats,
        under: Floats,
        transform: Callable[[float], float] = float,
        *,
        better: Better,
        unit: str = "",
    ) -> Estimate:
        """transform(sum(over) / sum(under)); the transform is exp or the identity."""
        if not under.sum():
            return Estimate.missing("there are no tokens", unit=unit, better=better)
        ratio = float(over.sum() / under.sum())
        value = transform(ratio)
        if not np.isfinite(over).all():
            return Estimate.missing("a log probability is not finite", unit=unit, better=better)
        if value > LARGEST:
            return Estimate.missing(f"it is above {LARGEST:g}", unit=unit, better=better)
        # What a document adds to the ratio, to first order; exp's slope is its value.
        slope = value if transform is exp else 1.0
        items = value + slope * (over - ratio * under) / under.mean()
        low, high = bootstrap(lambda index: _share(over[index], under[index], transform), len(over), seed=self.seed)
        told = {**self.details, "per_item": items.tolist()}
        reason = "" if low is not None else "one document has no interval"
        if low is None or high is None or not high <= LARGEST:
            low, high, reason = None, None, reason or f"its interval ends above {LARGEST:g}"
        return Estimate(
            value=value, low=low, high=high, n=len(over), unit=unit, better=better, reason=reason, details=told
        )

    def tail(self, divergence: Sequence[Floats]) -> Estimate:
        """The 99th percentile a token."""
        tokens = sum(map(len, divergence))
        if not tokens:
            return Estimate.missing("there are no tokens", unit="nats", better="lower")
        if not all(np.isfinite(values).all() for values in divergence):
            return Estimate.missing("a log probability is not finite", unit="nats", better="lower")
        low, high = bootstrap(
            lambda index: float(np.quantile(np.concatenate([divergence[i] for i in index] or [np.zeros(1)]), TAIL)),
            len(divergence),
            seed=self.seed,
            resamples=TAIL_RESAMPLES,
        )
        return Estimate(
            value=float(np.quantile(np.concatenate(divergence), TAIL)),
            low=low,
            high=high,
            n=len(divergence),
            unit="nats",
            better="lower",
            reason="" if low is not None else "one document has no interval",
            details={"quantile": TAIL, "tokens": tokens, "window": self.details["window"]},
        )


def exp(nats: float) -> float:
    """e to this; infinite where a float can't hold it."""
    return math.exp(nats) if nats < 700 else math.inf


def _share(over: Floats, under: Floats, transform: Callable[[float], float]) -> float:
    return transform(float(over.sum() / under.sum()))
