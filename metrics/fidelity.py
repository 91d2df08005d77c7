"""Distances between sets of pictures by their features: Frechet (FD), kernel (KID), and k-nearest-neighbour shares.

A number carries its extractor's name; `fid` and `kid` without one are Inception-v3's pool3 with the TensorFlow weights
(`metrics.inception`). Features are extracted once and shared. Everything is in double precision, on the CPU.

Intervals are block jackknives over both sets: they cover a number's expectation at this n. Pictures drawn for the
captions of the real ones are left out together with these, for a caption is what is drawn anew; of two sets that have
nothing to do with each other each is dealt into blocks of its own. A Frechet distance is biased
upwards by an amount that depends on n and on the pictures; the null distance (real pictures held out against the same
reference, at the same n) shows how much, and KID of independent sets has no such bias. Pictures of the reference's own
captions are a little nearer to it than independent ones, by either.

N generated or first pictures, M real or second ones, C feature size, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from metrics.extraction import Extractor, Features, extract
from metrics.statistics import BLOCKS, Better, Estimate, Ids, deal, of_blocks, without_blocks

__all__ = [
    "Extractor", "Features", "Floats", "distance_metrics", "extract", "fidelity_metrics", "frechet_distance",
    "kernel_distance", "nearest", "neighbour_shares",
]  # fmt: skip

Floats = NDArray[np.float64]

K = 3  # for precision and recall (Kynkaanniemi et al., arXiv 1904.06991), as in torch-fidelity
K_COVERAGE = 5  # for density and coverage (Naeem et al., arXiv 2002.09797)
ROWS = 512  # of all pairs of pictures at a time


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


def _frechet_of_blocks(first: Floats, second: Floats, blocks: int, *, paired: bool = False) -> Floats:
    """`frechet_distance` of two sets, and then without block after block of a jackknife, blocks + 1."""
    distance = _frechet_of_subsets(first, second)
    return np.array([distance(i, j) for i, j in without_blocks((len(first), len(second)), blocks, paired=paired)])


def _parts(first: Floats, second: Floats, blocks: int, *, paired: bool) -> tuple[list[Ids], list[Ids]]:
    """The blocks that a jackknife deals each of two sets into; without a jackknife it is one."""
    blocks = max(1, blocks)
    return deal(len(first), 0, blocks), deal(len(second), 0 if paired else 1, blocks)


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
    return float(_kernel_of_blocks(_double(first), _double(second), 0)[0])


def _kernel_of_blocks(first: Floats, second: Floats, blocks: int, *, paired: bool = False) -> Floats:
    """`kernel_distance` of two sets, and then without block after block of a jackknife, blocks + 1. Of the kernel only
    its sums over pairs of blocks are held."""
    parts = _parts(first, second, blocks, paired=paired)
    a, b = ([each[rows] for rows in part] for each, part in zip((first, second), parts, strict=True))
    aa, bb, ab = _kernel_sums(a, a), _kernel_sums(b, b), _kernel_sums(a, b)
    n, m = np.array([*map(len, a)]), np.array([*map(len, b)])
    found = []
    for left in range(blocks + 1):
        kept = np.arange(1, len(n) + 1) != left
        count_a, count_b = float(n[kept].sum()), float(m[kept].sum())
        within = kept @ aa @ kept / (count_a * (count_a - 1)) + kept @ bb @ kept / (count_b * (count_b - 1))
        found.append(within - 2 * (kept @ ab @ kept) / (count_a * count_b))
    return np.array(found)


def _kernel_sums(a: Sequence[Floats], b: Sequence[Floats]) -> Floats:
    """The kernel's sums over the pairs of a block of `a` and one of `b`; of a set with itself without the pairs of a
    picture and itself."""
    whole, starts = np.concatenate(b), np.cumsum([0, *map(len, b[:-1])])
    size, sums = whole.shape[1], np.zeros((len(a), len(b)))
    for row, block in enumerate(a):
        for begin in range(0, len(block), ROWS):
            kernel = block[begin : begin + ROWS] @ whole.T / size + 1
            sums[row] += np.add.reduceat((kernel * kernel * kernel).sum(axis=0), starts)
        if a is b:
            sums[row, row] -= (((block * block).sum(axis=1) / size + 1) ** 3).sum()
    return sums


def neighbour_shares(
    generated: NDArray[Any],
    real: NDArray[Any],
    *,
    k: int = K,
    k_coverage: int = K_COVERAGE,
    blocks: int = 0,
    paired: bool = False,
) -> dict[str, Floats]:
    """Shares of features N C and M C: each of all pictures, and then without block after block of a jackknife. paired:
    the pictures at a place are of one caption, and are left out together.

    precision: the share of generated pictures within the k-th neighbour's distance (its ball) of some real one.
    recall: the share of real pictures in the ball of some generated one.
    density: how many real pictures' balls of k_coverage a generated picture lies in, over k_coverage; may be above 1.
    coverage: the share of real pictures with a generated one in their ball of k_coverage.

    Distances are made a few rows at a time: all pairs are never held.
    """
    a, b = generated.astype(np.float64), real.astype(np.float64)
    parts = _parts(a, b, blocks, paired=paired)
    balls_a, balls_b, wide_b = (
        _radii(a, parts[0], k, blocks),
        *(_radii(b, parts[1], of, blocks) for of in (k, k_coverage)),
    )
    kept_a, kept_b = balls_a >= 0, balls_b >= 0
    precise, dense = np.zeros(blocks + 1), np.zeros(blocks + 1)
    recalled, covered = np.zeros_like(kept_b), np.zeros_like(kept_b)
    for begin in range(0, len(a), ROWS):
        rows = slice(begin, begin + ROWS)
        across = _distances(a[rows], b)
        for left, kept in enumerate(kept_a[:, rows, None]):
            near, inside = (across <= balls_b[left]) & kept, (across <= wide_b[left]) & kept
            precise[left] += near.any(axis=1).sum()
            dense[left] += inside.sum()
            covered[left] |= inside.any(axis=0)
            recalled[left] |= (across <= balls_a[left, rows, None]).any(axis=0)
    n, m = kept_a.sum(axis=1), kept_b.sum(axis=1)
    return {
        "precision": precise / n,
        "recall": (recalled & kept_b).sum(axis=1) / m,
        "density": dense / (n * k_coverage),
        "coverage": covered.sum(axis=1) / m,
    }


def _radii(features: Floats, parts: Sequence[Ids], k: int, blocks: int) -> Floats:
    """The distance of each picture of N to its k-th nearest other one, of all and without each block; -1 where it is
    itself left out. blocks + 1, N."""
    radii = np.full((blocks + 1, len(features)), -1.0)
    for begin in range(0, len(features), ROWS):
        rows = slice(begin, begin + ROWS)
        distances = _distances(features[rows], features)
        nearest = [np.partition(distances[:, part], min(k, len(part) - 1), axis=1)[:, : k + 1] for part in parts]
        for left in range(blocks + 1):
            others = np.concatenate([each for block, each in enumerate(nearest, 1) if block != left], axis=1)
            radii[left, rows] = np.partition(others, k, axis=1)[:, k]  # itself is the 0th
    for left, part in enumerate(parts[:blocks], 1):
        radii[left, part] = -1
    return radii


def _distances(a: Floats, b: Floats) -> Floats:
    lengths = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)
    squares = lengths - 2 * a @ b.T
    squares[squares < 1e-12 * lengths] = 0  # rounding: these are the same
    found: Floats = np.sqrt(squares)
    return found


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
    paired: bool = False,
) -> dict[str, Estimate]:
    """`distance_metrics`, and `precision`, `recall`, `density`, `coverage`, of generated against real pictures; `k` in
    their details. These four are dealt into blocks alike, so that the largest k has neighbours left without a block."""
    found = distance_metrics(generated, real, held_out, through_vae, blocks=blocks, keys=keys, paired=paired)
    maker = _Maker(details=_details(generated, real), blocks=blocks, keys=keys, paired=paired)
    shares = {"precision": k, "recall": k, "density": k_coverage, "coverage": k_coverage}
    if reason := _unfit(generated, real, least=max(shares.values()) + 2):
        return found | {name: Estimate.missing(reason, unit="share", better="higher") for name in shares}
    blocks = maker.dealt(generated, real, max(shares.values()))
    alike = maker.alike(generated, real)
    made = neighbour_shares(generated.values, real.values, k=k, k_coverage=k_coverage, blocks=blocks, paired=alike)
    for name, values in made.items():
        share = maker.estimate(values, generated, real, better="higher", unit="share", k=shares[name])
        found[name] = share if name == "density" else _clipped(share)
    return found


def distance_metrics(
    generated: Features,
    real: Features,
    held_out: Features | None = None,
    through_vae: Features | None = None,
    *,
    blocks: int = BLOCKS,
    keys: Sequence[str] | None = None,
    paired: bool = False,
) -> dict[str, Estimate]:
    """`fd_<extractor>` and `kid_<extractor>` (`fid` and `kid` on official Inception-v3 pool3), each with its null
    distance as `null_...` and its VAE's as `vae_...`, of generated against real pictures.

    held_out: other real pictures, of which as many as were generated make the null distances; through_vae: the same,
    encoded and decoded by the VAE that drawn pictures come from, which make the VAE's distances. Without enough of them
    these are missing. keys: the generated pictures' names (their prompts), for comparisons of approaches. paired: they
    were drawn for the captions of the real ones, in their order; where they are not as many, that is not made use of.
    Details: the extractor's provenance, `real` (a hash), `n_real`, `rank_deficient` (n <= C), `null`, `vae`.
    UserError where the sets' extractors differ. Missing, with the reason, where a set is too small or a feature is not
    finite.
    """
    if {**generated.provenance, "batch": 0} != {**real.provenance, "batch": 0}:
        raise UserError(f"the features differ: {dict(generated.provenance)} and {dict(real.provenance)}")
    short = "" if generated.provenance["extractor"] == "inception_v3" else f"_{generated.provenance['extractor']}"
    names = {"frechet": f"fd{short}" if short else "fid", "kernel": f"kid{short}"}
    maker = _Maker(details=_details(generated, real), blocks=blocks, keys=keys, paired=paired)
    found: dict[str, Estimate] = {}
    for kind, by in (("frechet", _frechet_of_blocks), ("kernel", _kernel_of_blocks)):
        null, vae = (_null(maker, by, len(generated), real, other) for other in (held_out, through_vae))
        own = maker.distance(by, generated, real)
        smallest = min(len(generated), len(real))
        extra: dict[str, Any] = {"null": null.value, "vae": vae.value}
        if kind == "frechet":
            extra["rank_deficient"] = smallest <= generated.values.shape[1]
        found[names[kind]] = replace(own, details={**own.details, **extra})
        found[f"null_{names[kind]}"], found[f"vae_{names[kind]}"] = null, vae
    return found


def _details(generated: Features, real: Features) -> dict[str, Any]:
    return {**generated.provenance, "real": real.content, "n_real": len(real)}


def _unfit(*sets: Features, least: int = 2) -> str:
    """Why nothing can be measured of these sets; "" where it can."""
    for features in sets:
        if len(features) < least:
            return f"{len(features)} pictures are too few, expected at least {least}"
        if faulty := int((~np.isfinite(features.values).all(axis=1)).sum()):
            return f"the features of {faulty} of {len(features)} pictures are not finite"
    return ""


def _null(maker: _Maker, by: Callable[..., Floats], n: int, real: Features, held_out: Features | None) -> Estimate:
    if held_out is None or len(held_out) < n:
        count = 0 if held_out is None else len(held_out)
        return Estimate.missing(f"{count} held-out real pictures for {n} generated ones", better="lower")
    same = replace(held_out, values=held_out.values[:n])
    return replace(maker, keys=None, paired=False).distance(by, same, real)


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Estimates with what all of them share."""

    details: Mapping[str, Any]
    blocks: int
    keys: Sequence[str] | None
    paired: bool

    def alike(self, first: Features, second: Features) -> bool:
        """Whether the pictures at a place of two sets belong together."""
        return self.paired and len(first) == len(second)

    def distance(self, by: Callable[..., Floats], first: Features, second: Features) -> Estimate:
        """A distance of two sets, lower better."""
        if reason := _unfit(first, second):
            return Estimate.missing(reason, better="lower")
        a, b = first.values.astype(np.float64), second.values.astype(np.float64)
        values = by(a, b, self.dealt(first, second), paired=self.alike(first, second))
        return self.estimate(values, first, second, better="lower")

    def dealt(self, first: Features, second: Features, k: int = 0) -> int:
        """Into how many blocks two sets are dealt; 0 where they are too small for an interval. k: neighbours that must
        be left without a block."""
        fewest = min(len(first), len(second))
        blocks = self.blocks if fewest >= 4 * self.blocks else max(2, fewest // 4)
        return 0 if fewest < 8 or fewest - -(-fewest // blocks) <= k else blocks

    def estimate(
        self, values: Floats, first: Features, second: Features, *, better: Better, unit: str = "", **details: Any
    ) -> Estimate:
        """Of a statistic of two sets, whole and then without each block."""
        details = {**self.details, **details}
        paired = self.alike(first, second)
        told = of_blocks(values, len(first), keys=self.keys, unit=unit, better=better, details=details, paired=paired)
        if len(values) > 1 or told.value is None:
            return told
        return replace(told, reason=f"{min(len(first), len(second))} pictures are too few for an interval")


def _clipped(estimate: Estimate) -> Estimate:
    """The interval of a share, within 0 and 1."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))
