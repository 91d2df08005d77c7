"""Distances between sets of pictures by their features: Frechet (FD), kernel (KID), and k-nearest-neighbour shares.

A number carries its extractor's name; `fid` and `kid` without one are Inception-v3's pool3 with the TensorFlow weights
(`metrics.inception`). Features are extracted once and shared. Everything is in double precision, on the CPU.

Intervals are block jackknives over both sets: they cover a number's expectation at this n. A Frechet distance is biased
upwards by an amount that depends on n and on the pictures; the null distance (real pictures held out against the same
reference, at the same n) shows how much, and KID of independent sets has no such bias. Pictures of the reference's own
captions are a little nearer to it than independent ones, by either.

N generated or first pictures, M real or second ones, C feature size, k neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from metrics.extraction import Extractor, Features, extract
from metrics.statistics import BLOCKS, Better, Estimate, jackknife

__all__ = [
    "Extractor", "Features", "Floats", "Neighbours", "distance_metrics", "extract", "fidelity_metrics",
    "frechet_distance", "kernel_distance", "nearest",
]  # fmt: skip

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

K = 3  # for precision and recall (Kynkaanniemi et al., arXiv 1904.06991), as in torch-fidelity
K_COVERAGE = 5  # for density and coverage (Naeem et al., arXiv 2002.09797)
HELD = {"kernel": 4.1, "shares": 6.1}  # doubles a pair of pictures, at most, while these are taken (measured)
LIMIT = Path("/sys/fs/cgroup/memory.max")
ROOM = 0.8  # share of the memory that they may take


def frechet_distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of features N C and M C (Heusel et al., arXiv 1706.08500), unbiased
    covariances. ValueError below two pictures.

    The last trace is the sum of the roots of the eigenvalues of S1 S2. With S = A^T A these are the singular values of
    A1 A2^T, which needs no root of a rounded number: identical sets give 0 to rounding, at any n.
    """
    a, b = _double(first), _double(second)
    gap = a.mean(axis=0) - b.mean(axis=0)
    roots = np.linalg.svd(_root(a) @ _root(b).T, compute_uv=False)
    variances = a.var(axis=0, ddof=1).sum() + b.var(axis=0, ddof=1).sum()
    return float(gap @ gap + variances - 2 * roots.sum())


def _double(features: NDArray[Any]) -> Floats:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features of shape {features.shape}: expected N C with at least 2 pictures")
    return features.astype(np.float64)


def _root(features: Floats) -> Floats:
    """A with A^T A the covariance of features N C; min(N, C) rows."""
    centred: Floats = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))


def _frechet_of_subsets(first: Floats, second: Floats) -> Callable[[Ids, Ids], float]:
    """`frechet_distance` of rows of two sets; where one has no more pictures than features, from products once made."""
    if min(len(first), len(second)) > first.shape[1]:
        return lambda i, j: frechet_distance(first[i], second[j])
    middle = second.mean(axis=0)  # a common shift changes nothing but rounding
    a, b = first - middle, second - middle
    products = a @ b.T

    def distance(i: Ids, j: Ids) -> float:
        gap = a[i].mean(axis=0) - b[j].mean(axis=0)
        inner = products[np.ix_(i, j)]
        inner = inner - inner.mean(axis=0) - inner.mean(axis=1, keepdims=True) + inner.mean()
        roots = np.linalg.svd(inner, compute_uv=False).sum() / np.sqrt((len(i) - 1.0) * (len(j) - 1))
        variances = a[i].var(axis=0, ddof=1).sum() + b[j].var(axis=0, ddof=1).sum()
        return float(gap @ gap + variances - 2 * roots)

    return distance


def kernel_distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """The unbiased MMD^2 with the kernel (x.y / C + 1)^3 (Binkowski et al., arXiv 1801.01401) of features N C and M C,
    of all pairs: no subsets. May be below 0. ValueError below two pictures."""
    a, b = _double(first), _double(second)
    return _kernel_of_subsets(a, b)(np.arange(len(a)), np.arange(len(b)))


def _kernel_of_subsets(first: Floats, second: Floats) -> Callable[[Ids, Ids], float]:
    size = first.shape[1]
    k_aa, k_bb, k_ab = ((x @ y.T / size + 1) ** 3 for x, y in ((first, first), (second, second), (first, second)))
    for kernel in (k_aa, k_bb):
        np.fill_diagonal(kernel, 0)

    def distance(i: Ids, j: Ids) -> float:
        in_a, in_b = np.bincount(i, minlength=len(k_aa)), np.bincount(j, minlength=len(k_bb))
        within = in_a @ k_aa @ in_a / (len(i) * (len(i) - 1.0)) + in_b @ k_bb @ in_b / (len(j) * (len(j) - 1.0))
        return float(within - 2 * (in_a @ k_ab @ in_b) / (len(i) * float(len(j))))

    return distance


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Euclidean distances between generated pictures N, and real ones M: all that the neighbour shares need."""

    generated: Floats
    real: Floats
    across: Floats

    @classmethod
    def of(cls, generated: NDArray[Any], real: NDArray[Any]) -> Neighbours:
        """From features N C and M C; equal features are at distance 0 exactly."""
        a, b = generated.astype(np.float64), real.astype(np.float64)
        return cls(generated=_distances(a, a), real=_distances(b, b), across=_distances(a, b))

    def precision(self, k: int, i: Ids, j: Ids) -> float:
        """The share of generated pictures within the k-th neighbour's distance of some real one."""
        return float((self.across[np.ix_(i, j)] <= _radii(self.real, j, k)).any(axis=1).mean())

    def recall(self, k: int, i: Ids, j: Ids) -> float:
        """The share of real pictures within the k-th neighbour's distance of some generated one."""
        return float((self.across[np.ix_(i, j)] <= _radii(self.generated, i, k)[:, None]).any(axis=0).mean())

    def density(self, k: int, i: Ids, j: Ids) -> float:
        """How many real pictures' balls a generated picture lies in, over k; may be above 1."""
        return float((self.across[np.ix_(i, j)] <= _radii(self.real, j, k)).sum(axis=1).mean() / k)

    def coverage(self, k: int, i: Ids, j: Ids) -> float:
        """The share of real pictures with a generated one in their ball."""
        return float((self.across[np.ix_(i, j)] <= _radii(self.real, j, k)).any(axis=0).mean())


def _distances(a: Floats, b: Floats) -> Floats:
    lengths = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)
    squares = lengths - 2 * a @ b.T
    squares[squares < 1e-12 * lengths] = 0  # rounding: these are the same
    found: Floats = np.sqrt(squares)
    return found


def _radii(distances: Floats, index: Ids, k: int) -> Floats:
    """The distance of each picture of a set to its k-th nearest other one."""
    radii: Floats = np.partition(distances[np.ix_(index, index)], k, axis=1)[:, k]  # itself is the 0th
    return radii


def nearest(generated: Features, training: Features) -> tuple[Ids, Floats]:
    """For each generated picture the nearest training picture and its distance, to be looked at for memorisation."""
    a, b = generated.values.astype(np.float64), training.values.astype(np.float64)
    found = [_distances(a[start : start + 256], b) for start in range(0, len(a), 256)]
    index = np.concatenate([rows.argmin(axis=1) for rows in found])
    return index, np.concatenate([rows.min(axis=1) for rows in found])


def fidelity_metrics(
    generated: Features,
    real: Features,
    held_out: Features | None = None,
    through_vae: Features | None = None,
    *,
    k: int = K,
    k_coverage: int = K_COVERAGE,
    blocks: int = BLOCKS,
    keys: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """`distance_metrics`, and `precision`, `recall`, `density`, `coverage`, of generated against real pictures; `k` in
    their details."""
    found = distance_metrics(generated, real, held_out, through_vae, blocks=blocks, keys=keys)
    maker = _Maker(details=_details(generated, real), blocks=blocks, keys=keys)
    shares = {"precision": k, "recall": k, "density": k_coverage, "coverage": k_coverage}
    reason = _unfit(generated, real, least=max(shares.values()) + 2) or _pairless("shares", generated, real)
    if reason:
        return found | {name: Estimate.missing(reason, unit="share", better="higher") for name in shares}
    neighbours = Neighbours.of(generated.values, real.values)
    for name, count in shares.items():
        found[name] = maker.share(partial(getattr(neighbours, name), count), len(generated), len(real), count)
        if name != "density":
            found[name] = _clipped(found[name])
    return found


def distance_metrics(
    generated: Features,
    real: Features,
    held_out: Features | None = None,
    through_vae: Features | None = None,
    *,
    blocks: int = BLOCKS,
    keys: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """`fd_<extractor>` and `kid_<extractor>` (`fid` and `kid` on official Inception-v3 pool3), each with its null
    distance as `null_...` and its VAE's as `vae_...`, of generated against real pictures.

    held_out: other real pictures, of which as many as were generated make the null distances; through_vae: the same,
    encoded and decoded by the VAE that drawn pictures come from, which make the VAE's distances. Without enough of them
    these are missing. keys: the generated pictures' names (their prompts), for comparisons of approaches.
    Details: the extractor's provenance, `real` (a hash), `n_real`, `rank_deficient` (n <= C), `null`, `vae`.
    UserError where the sets' extractors differ. Missing, with the reason, where a set is too small or a feature is not
    finite, and what is of all pairs (KID, the shares) where these don't fit into this machine's memory.
    """
    if {**generated.provenance, "batch": 0} != {**real.provenance, "batch": 0}:
        raise UserError(f"the features differ: {dict(generated.provenance)} and {dict(real.provenance)}")
    short = "" if generated.provenance["extractor"] == "inception_v3" else f"_{generated.provenance['extractor']}"
    names = {"frechet": f"fd{short}" if short else "fid", "kernel": f"kid{short}"}
    maker = _Maker(details=_details(generated, real), blocks=blocks, keys=keys)
    found: dict[str, Estimate] = {}
    for kind, prepare in (("frechet", _frechet_of_subsets), ("kernel", _kernel_of_subsets)):
        if kind == "kernel" and (reason := _pairless(kind, generated, real)):
            lacking = (f"{of}{names[kind]}" for of in ("", "null_", "vae_"))
            return found | dict.fromkeys(lacking, Estimate.missing(reason, better="lower"))
        null, vae = (_null(maker, prepare, len(generated), real, other) for other in (held_out, through_vae))
        own = maker.distance(prepare, generated, real)
        smallest = min(len(generated), len(real))
        extra: dict[str, Any] = {"null": null.value, "vae": vae.value}
        if kind == "frechet":
            extra["rank_deficient"] = smallest <= generated.values.shape[1]
        found[names[kind]] = replace(own, details={**own.details, **extra})
        found[f"null_{names[kind]}"], found[f"vae_{names[kind]}"] = null, vae
    return found


def _details(generated: Features, real: Features) -> dict[str, Any]:
    return {**generated.provenance, "real": real.content, "n_real": len(real)}


def _pairless(what: str, *sets: Features) -> str:
    """Why not every pair of these sets can be held; "" where it can."""
    largest, here = max(map(len, sets)), memory()
    needed = HELD[what] * 8 * largest**2
    told = f"{largest:,} pictures have too many pairs: {needed / 1e9:.3g} GB, of {here / 1e9:.3g} on this machine"
    return told if needed > ROOM * here else ""


def memory() -> int:
    """Bytes that this process may have: the machine's, or what its container allows."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no such file, or "max"
        return min(whole, int(LIMIT.read_text(encoding="ascii")))
    return whole


def _unfit(*sets: Features, least: int = 2) -> str:
    """Why nothing can be measured of these sets; "" where it can."""
    for features in sets:
        if len(features) < least:
            return f"{len(features)} pictures are too few, expected at least {least}"
        if faulty := int((~np.isfinite(features.values).all(axis=1)).sum()):
            return f"the features of {faulty} of {len(features)} pictures are not finite"
    return ""


def _null(maker: _Maker, prepare: Callable[..., Any], n: int, real: Features, held_out: Features | None) -> Estimate:
    if held_out is None or len(held_out) < n:
        count = 0 if held_out is None else len(held_out)
        return Estimate.missing(f"{count} held-out real pictures for {n} generated ones", better="lower")
    same = replace(held_out, values=held_out.values[:n])
    return replace(maker, keys=None).distance(prepare, same, real)


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Estimates with what all of them share."""

    details: Mapping[str, Any]
    blocks: int
    keys: Sequence[str] | None

    def distance(
        self, prepare: Callable[[Floats, Floats], Callable[[Ids, Ids], float]], first: Features, second: Features
    ) -> Estimate:
        """A distance of two sets, lower better."""
        if reason := _unfit(first, second):
            return Estimate.missing(reason, better="lower")
        statistic = prepare(first.values.astype(np.float64), second.values.astype(np.float64))
        return self._estimate(statistic, len(first), len(second), better="lower")

    def share(self, statistic: Callable[[Ids, Ids], float], n: int, m: int, k: int) -> Estimate:
        """A neighbour share, higher better."""
        told = self._estimate(statistic, n, m, better="higher", unit="share", k=k)
        return replace(told, details={**told.details, "k": k})

    def _estimate(
        self, statistic: Callable[[Ids, Ids], float], n: int, m: int, *, better: Better, unit: str = "", k: int = 0
    ) -> Estimate:
        fewest = min(n, m)
        blocks = self.blocks if fewest >= 4 * self.blocks else max(2, fewest // 4)
        if fewest < 8 or fewest - -(-fewest // blocks) <= k:  # without a block there must be k neighbours left
            value = statistic(np.arange(n), np.arange(m))
            reason = f"{fewest} pictures are too few for an interval"
            return Estimate(value=value, n=n, unit=unit, better=better, reason=reason, details=self.details)
        return jackknife(
            statistic,
            np.arange(n),
            np.arange(m),
            blocks=blocks,
            keys=self.keys,
            unit=unit,
            better=better,
            details=self.details,
        )


def _clipped(estimate: Estimate) -> Estimate:
    """The interval of a share, within 0 and 1."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))
