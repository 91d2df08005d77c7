from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import linalg

from bench.data.shapes import Shapes
from bench.errors import UserError
from metrics import extraction, fidelity
from metrics.differences import difference, same_items
from metrics.features import FeatureExtractor, efficientnet_lite0
from metrics.fidelity import (
    Features,
    Floats,
    extract,
    fidelity_metrics,
    frechet_distance,
    kernel_distance,
    nearest,
    neighbour_shares,
)
from metrics.inception import Inception
from metrics.inception_weights import find_weights, usual_place
from metrics.statistics import BLOCKS, NO_SPREAD, Estimate, deal, of_blocks
from tests.metrics.known_there import early, save, torch_fidelity_extractor, torch_fidelity_numbers


def normal(n: int, c: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, c)) * np.linspace(0.5, 1.5, c) * scale + shift


def features(values: NDArray[Any], name: str = "test") -> Features:
    return Features(values=values.astype(np.float32), content=name, provenance={"extractor": "test", "batch": 1})


def value(found: dict[str, Estimate], name: str) -> float:
    number = found[name].value
    assert number is not None, found[name].reason
    return number


def pictures(split: str, n: int = 24, seed: int = 0) -> NDArray[np.uint8]:
    return np.stack([sample.image for sample in Shapes(split=split, size=32, seed=seed, items=n).first(n)])


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return efficientnet_lite0(input_size=32)


def gaussian(m1: NDArray, s1: NDArray, m2: NDArray, s2: NDArray) -> float:
    """The definition, by a matrix square root."""
    root = linalg.sqrtm(linalg.sqrtm(s1) @ s2 @ linalg.sqrtm(s1))
    return float((m1 - m2) @ (m1 - m2) + np.trace(s1 + s2 - 2 * root.real))


@pytest.mark.parametrize(("n", "m"), [(200, 300), (300, 200), (20, 300), (20, 10)])
def test_the_frechet_distance_is_the_definition_whatever_the_rank(n: int, m: int) -> None:
    a, b = normal(n, 40, 0), normal(m, 40, 1, shift=0.3, scale=1.5)
    expected = gaussian(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    rel = 1e-10 if min(n, m) > 40 else 1e-5  # the root of a rank-deficient matrix is what is inexact here
    assert frechet_distance(a, b) == pytest.approx(expected, rel=rel)
    subsets = fidelity._frechet_of_subsets(a, b)
    i, j = np.arange(3, n), np.arange(0, m, 2)
    assert subsets(i, j) == pytest.approx(frechet_distance(a[i], b[j]), rel=1e-10)


def test_two_gaussians_have_the_closed_form() -> None:
    c, shift, scale = 6, 0.7, 2.0
    spread = np.linspace(0.5, 1.5, c)
    closed = c * shift**2 + ((scale - 1) ** 2 * spread**2).sum()
    found = frechet_distance(normal(200_000, c, 0), normal(200_000, c, 1, shift, scale))
    assert found == pytest.approx(closed, rel=0.01)


@pytest.mark.parametrize(("n", "c"), [(30, 64), (64, 64), (300, 16)])
def test_identical_sets_are_at_distance_zero(n: int, c: int) -> None:
    a = normal(n, c, 0, shift=5)
    shuffled = np.random.default_rng(1).permutation(a)
    assert abs(frechet_distance(a, shuffled)) < 1e-10 * np.trace(np.cov(a.T))


@pytest.mark.parametrize(("n", "c"), [(30, 64), (64, 64), (300, 16)])
def test_the_distance_is_that_of_the_covariances_own_roots(n: int, c: int) -> None:
    a, b = normal(n, c, 0, shift=5), normal(n + 7, c, 1, scale=1.5)
    first, second = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(first)  # S1^(1/2) S2 S1^(1/2) has the eigenvalues of S1 S2, and is symmetric
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    traced = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    gap = a.mean(0) - b.mean(0)
    assert frechet_distance(a, b) == pytest.approx(
        gap @ gap + np.trace(first) + np.trace(second) - 2 * traced, rel=1e-6
    )


def test_the_kernel_distance_is_unbiased_and_the_sum_over_pairs() -> None:
    a, b = normal(7, 5, 0), normal(9, 5, 1, shift=0.5)
    kernel = lambda x, y: (float(x @ y) / 5 + 1) ** 3  # noqa: E731
    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across)
    same = [kernel_distance(normal(40, 5, s), normal(40, 5, s + 1000)) for s in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200)


def shares_by_definition(a: NDArray, b: NDArray, k: int, k_coverage: int) -> dict[str, float]:
    def balls(points: NDArray, k: int) -> list[float]:
        return [float(np.sort(np.linalg.norm(points - point, axis=1))[k]) for point in points]

    def inside(points: NDArray, centres: NDArray, k: int) -> NDArray:
        radii = balls(centres, k)
        return np.array([[np.linalg.norm(x - y) <= radii[n] for n, y in enumerate(centres)] for x in points])

    return {
        "precision": inside(a, b, k).any(axis=1).mean(),
        "recall": inside(b, a, k).any(axis=1).mean(),
        "density": inside(a, b, k_coverage).sum() / (k_coverage * len(a)),
        "coverage": inside(a, b, k_coverage).any(axis=0).mean(),
    }


@pytest.mark.parametrize(
    ("n", "m", "blocks", "paired"), [(20, 30, 0, False), (24, 33, 4, False), (9, 15, 2, False), (24, 24, 4, True)]
)
def test_neighbour_shares_by_their_definitions_with_and_without_blocks(
    n: int, m: int, blocks: int, paired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = normal(n, 3, 0), normal(m, 3, 1, shift=0.4)
    monkeypatch.setattr(fidelity, "ROWS", 7)
    found = neighbour_shares(a, b, k=2, k_coverage=3, blocks=blocks, paired=paired)
    assert {len(values) for values in found.values()} == {blocks + 1}
    whole = (np.arange(0), np.arange(0))
    second = 0 if paired else 1
    parts = [whole, *zip(deal(n, 0, blocks), deal(m, second, blocks), strict=True)] if blocks else [whole]
    for left, (out_a, out_b) in enumerate(parts):
        expected = shares_by_definition(np.delete(a, out_a, 0), np.delete(b, out_b, 0), 2, 3)
        assert {name: values[left] for name, values in found.items()} == pytest.approx(expected), left


def test_equal_features_are_at_distance_zero_exactly() -> None:
    a = normal(40, 300, 0, shift=7)
    assert not fidelity._distances(a, a[:20])[np.arange(20), np.arange(20)].any()


def test_each_share_has_its_own_number_of_neighbours_and_density_may_exceed_one() -> None:
    a, b = normal(64, 4, 0, scale=0.3), normal(80, 4, 1)
    found = fidelity_metrics(features(a), features(b))
    for name, expected in shares_by_definition(a.astype(np.float32), b.astype(np.float32), 3, 5).items():
        assert value(found, name) == pytest.approx(expected), name
    rare = fidelity_metrics(features(normal(64, 4, 0, shift=2.5)), features(normal(64, 4, 1)))
    for name in ("precision", "recall", "coverage"):  # nearly nothing: the interval of a share ends at 0
        assert value(rare, name) > 0 and rare[name].low == 0
    density = found["density"]
    assert value(found, "density") > 1 and density.high is not None and density.high > value(found, "density")


def test_directions() -> None:
    real = normal(150, 8, 0)
    collapsed = np.repeat(normal(1, 8, 1, scale=0.1), 150, axis=0) + 1e-3 * normal(150, 8, 2)
    found = fidelity_metrics(features(collapsed), features(real))
    assert value(found, "precision") == 1 and value(found, "recall") == 0
    far = fidelity_metrics(features(normal(150, 8, 3, shift=9)), features(real))
    assert {value(far, name) for name in ("precision", "recall", "density", "coverage")} == {0}
    good = fidelity_metrics(features(normal(150, 8, 4)), features(real))
    assert min(value(good, name) for name in ("precision", "recall", "density", "coverage")) > 0.75
    for name in ("fd_test", "kid_test"):
        assert good[name].better == "lower" and value(good, name) < value(found, name) < value(far, name)
    assert {good[name].better for name in ("precision", "recall", "density", "coverage")} == {"higher"}


def test_what_must_stand_beside_a_distance() -> None:
    real, held_out = features(normal(120, 8, 0), "real"), features(normal(100, 8, 1))
    blurred = features(held_out.values * 0.8, "blurred")
    found = fidelity_metrics(features(normal(64, 8, 2, shift=0.5)), real, held_out, blurred)
    assert value(found, "vae_fd_test") == found["fd_test"].details["vae"]
    assert value(found, "vae_fd_test") == pytest.approx(frechet_distance(blurred.values[:64], real.values))
    fd, null = found["fd_test"], found["null_fd_test"]
    assert fd.details["null"] == null.value and value(found, "null_fd_test") < value(found, "fd_test")
    assert null.value == pytest.approx(frechet_distance(held_out.values[:64], real.values))
    assert fd.n == null.n == 64 and fd.details["n_real"] == 120 and fd.details["real"] == "real"
    assert not fd.details["rank_deficient"] and fd.details["extractor"] == "test"
    neighbours = {name: found[name].details["k"] for name in ("precision", "recall", "density", "coverage")}
    assert neighbours == {"precision": 3, "recall": 3, "density": 5, "coverage": 5}
    for name, estimate in found.items():
        assert estimate.low is not None and estimate.high is not None
        assert estimate.low <= value(found, name) <= estimate.high
    few = fidelity_metrics(features(normal(9, 20, 2)), features(normal(50, 20, 3)), features(normal(8, 20, 4)))
    assert few["fd_test"].details["rank_deficient"]
    sparse = fidelity_metrics(features(normal(50, 20, 2)), features(normal(19, 20, 3)))
    assert sparse["fd_test"].details["rank_deficient"]  # whichever set is the small one
    assert few["null_kid_test"].value is None and "8 held-out real pictures for 9" in few["null_kid_test"].reason


def test_sets_that_cant_be_measured_have_reasons() -> None:
    real = features(normal(50, 4, 0))
    assert {e.value for e in fidelity_metrics(features(normal(1, 4, 1)), real).values()} == {None}
    some = fidelity_metrics(features(normal(5, 4, 1)), real)
    assert some["fd_test"].value is not None and some["fd_test"].low is None and "5 pictures" in some["fd_test"].reason
    assert some["precision"].value is None
    fewer = fidelity_metrics(features(normal(50, 4, 1)), features(normal(7, 4, 2)))["fd_test"]
    assert fewer.low is None and fewer.reason == "7 pictures are too few for an interval"
    broken = normal(50, 4, 1)
    broken[3] = np.nan
    assert "1 of 50 pictures are not finite" in fidelity_metrics(features(broken), real)["kid_test"].reason
    other = Features(values=real.values, content="", provenance={"extractor": "other", "batch": 1})
    with pytest.raises(UserError, match="the features differ"):
        fidelity_metrics(other, real)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(normal(1, 4, 0), normal(5, 4, 0))


@pytest.mark.parametrize(
    ("n", "m", "blocks", "paired"),
    [(64, 90, 16, False), (9, 30, 2, False), (5, 4, 2, False), (20, 20, 20, False), (64, 64, 16, True)],
)
def test_distances_without_a_block_are_those_of_the_other_pictures(
    n: int, m: int, blocks: int, paired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = normal(n, 6, 0), normal(m, 6, 1, shift=0.3)
    monkeypatch.setattr(fidelity, "ROWS", 3)
    for by, distance in (
        (fidelity._kernel_of_blocks, kernel_distance),
        (fidelity._frechet_of_blocks, frechet_distance),
    ):
        found = by(a, b, blocks, paired=paired)
        assert found[0] == pytest.approx(distance(a, b))
        for without, out_a, out_b in zip(
            found[1:], deal(n, 0, blocks), deal(m, 0 if paired else 1, blocks), strict=True
        ):
            assert without == pytest.approx(distance(np.delete(a, out_a, 0), np.delete(b, out_b, 0)))


def test_pictures_are_held_by_number_and_by_size() -> None:
    many = extraction.PIXELS // 1000**2
    assert list(extraction._groups([8] * 7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(extraction._groups([10, 8000, 10, 10], 32)) == [(0, 1), (1, 2), (2, 4)]  # a large one alone
    assert list(extraction._groups([1000] * (many + 1), 99)) == [(0, many), (many, many + 1)]
    assert list(extraction._groups([], 3)) == []


def test_features_of_pictures_as_they_come_are_those_of_the_stack(extractor: FeatureExtractor) -> None:
    stack, told = pictures("test", 10), list[int]()
    large = np.repeat(np.repeat(stack, 2, axis=1), 2, axis=2)
    whole = extract(extractor, stack, batch=4)
    each = extraction.extract_each(extractor, list(stack), batch=4, advance=told.append)
    np.testing.assert_array_equal(each.values, whole.values)
    assert each.provenance == whole.provenance and told == [4, 4, 2]
    mixed = extraction.extract_each(extractor, [p for pair in zip(stack, large, strict=True) for p in pair], batch=4)
    np.testing.assert_allclose(mixed.values[::2], whole.values, atol=1e-5)
    np.testing.assert_allclose(mixed.values[1::2], extract(extractor, large).values, atol=1e-5)
    assert len({mixed.content, each.content, mixed.of(np.arange(20)).content}) == 3
    np.testing.assert_array_equal(mixed.of(np.array([3, 0])).values, mixed.values[[3, 0]])


@pytest.mark.parametrize("n", [7, 8, 10, 11, 12, 20])
def test_few_pictures_have_every_number_if_not_every_interval(n: int) -> None:
    found = fidelity_metrics(features(normal(n, 5, 0)), features(normal(n, 5, 1)))
    for name in ("fd_test", "kid_test", "precision", "recall", "density", "coverage"):
        assert value(found, name) is not None
    assert found["coverage"].reason in (("", NO_SPREAD) if n >= 12 else (f"{n} pictures are too few for an interval",))


def test_a_share_that_no_block_of_pictures_changes_has_no_interval() -> None:
    far = fidelity_metrics(features(normal(64, 5, 0)), features(normal(64, 5, 1, shift=50.0)))
    own = fidelity_metrics(features(normal(64, 5, 0)), features(normal(64, 5, 0)))
    for name, least in (("precision", 0.0), ("recall", 0.0), ("coverage", 0.0)):
        assert (far[name].value, far[name].low, far[name].reason) == (least, None, NO_SPREAD)
        apart = difference(own[name], far[name])
        assert (apart.word, apart.estimate.low) == ("not told apart", None)


def test_two_sets_of_the_same_prompts_are_compared_block_by_block() -> None:
    real, keys = features(normal(200, 6, 0)), [f"prompt {i}" for i in range(128)]
    base = normal(128, 6, 1)
    near = fidelity_metrics(features(base + 0.3), real, keys=keys)["fd_test"]
    far = fidelity_metrics(features(base + 0.35), real, keys=keys)["fd_test"]
    told = difference(near, far)
    assert told.paired and told.word == "better"
    alone = difference(near, fidelity_metrics(features(base + 0.35), real)["fd_test"])
    assert not alone.paired and alone.word == "not told apart"  # pairing is what tells them apart
    null = fidelity_metrics(features(base), real, features(normal(128, 6, 2)), keys=keys)["null_fd_test"]
    assert "pseudo" in null.details and "items" not in null.details  # no picture of it was drawn for a prompt


def test_numbers_do_not_depend_on_the_batch(extractor: FeatureExtractor) -> None:
    images = pictures("test", 40)
    one, many = (extract(extractor, images, batch=batch) for batch in (1, 16))
    real = extract(extractor, pictures("train", 40))
    assert one.content == many.content
    first, second = fidelity_metrics(one, real), fidelity_metrics(many, real)
    for name in ("fd_efficientnet_lite0", "kid_efficientnet_lite0", "precision", "recall", "density", "coverage"):
        assert value(first, name) == pytest.approx(value(second, name), rel=1e-4, abs=1e-7)


def test_a_reference_is_extracted_once_and_again_when_damaged(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    images, calls = pictures("validation", 6), []
    real_extract = extractor.extract

    def counted(chosen: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
        calls.append(batch)
        return real_extract(chosen, batch)

    monkeypatch.setattr(extractor, "extract", counted)
    first, second = (extract(extractor, images, cached=True) for _ in range(2))
    assert calls == [32]
    np.testing.assert_array_equal(first.values, second.values)
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    assert extract(extractor, changed, cached=True).content != first.content and len(calls) == 2
    for path in (own_cache / "features").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(extract(extractor, images, cached=True).values, first.values)
    assert len(calls) == 3
    monkeypatch.setattr(extraction, "device_of", lambda extractor: "cuda")  # which rounds otherwise
    extract(extractor, images, cached=True)
    assert len(calls) == 4


def test_the_device_of_an_extractor_is_its_own_or_its_weights(extractor: FeatureExtractor) -> None:
    assert extraction.device_of(extractor) == "cpu"
    inception: Any = SimpleNamespace(device=torch.device("cuda:1"))
    assert extraction.device_of(inception) == "cuda"


@dataclass
class Counting:
    """An extractor whose features are how often it was asked."""

    name: str = "counting"
    weights_hash: str = "a"
    resize: str = "to 8"
    feature_size: int = 2
    asked: int = 0

    def extract(self, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
        self.asked += 1
        return np.full((len(images), self.feature_size), self.asked, dtype=np.float32)


@pytest.mark.parametrize("other", [{"name": "b"}, {"weights_hash": "b"}, {"resize": "to 9"}, {"feature_size": 3}])
def test_what_another_extractor_kept_is_not_read(other: dict[str, Any]) -> None:
    images = pictures("validation", 3)
    for _ in range(2):
        extract(Counting(), images, cached=True)
    changed: Any = Counting(**other)
    assert extract(changed, images, cached=True).values.shape == (3, changed.feature_size) and changed.asked == 1


def test_the_nearest_training_picture_is_found() -> None:
    training = features(normal(300, 5, 0))
    generated = features(np.concatenate([training.values[[7, 250]], normal(2, 5, 1)]))
    index, distance = nearest(generated, training)
    assert index[:2].tolist() == [7, 250] and distance[:2].tolist() == [0, 0]
    by_hand = np.linalg.norm(generated.values[:, None].astype(float) - training.values, axis=2)
    np.testing.assert_allclose(distance, by_hand.min(1), atol=1e-5)


def test_parity_with_torch_fidelity_on_folders(inception_file: Path, small_inception: None, tmp_path: Path) -> None:
    inception = early(Inception(inception_file))
    assert not inception.official and inception.name == "inception_v3_other"  # never `fid` on other weights
    a, b = pictures("train", 96), pictures("test", 96) // 8 * 7
    found = fidelity_metrics(extract(inception, a), extract(inception, b))
    layers: dict[str, Any] = {f"feature_layer_{metric}": "64" for metric in ("fid", "kid", "prc")}
    theirs = torch_fidelity_numbers(
        save(tmp_path / "a", a),
        save(tmp_path / "b", b),
        96,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        **layers,
    )
    assert value(found, f"fd_{inception.name}") == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    # torch-fidelity's kernels are in single precision; the next test has them in double.
    kid = theirs["kernel_inception_distance_mean"]
    assert value(found, f"kid_{inception.name}") == pytest.approx(kid, rel=1e-4)
    for name in ("precision", "recall"):
        assert value(found, name) > 0 and value(found, name) == pytest.approx(theirs[name], rel=1e-6)


def test_inceptions_features_are_torch_fidelitys_last(inception_file: Path, small_inception: None) -> None:
    """Pool3, which the other tests leave for a layer of fewer features."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    images = pictures("train", 3)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_file))
    with torch.no_grad():
        (theirs,) = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    own = Inception(inception_file).extract(images)
    assert own.shape == (3, 2048) and np.abs(own).max() > 0
    np.testing.assert_allclose(own, theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_parity_with_torch_fidelity_in_double_precision(extractor: FeatureExtractor, tmp_path: Path) -> None:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    parent: Any = FEATURE_EXTRACTORS_REGISTRY[torch_fidelity_extractor(extractor)]

    class Double(parent):  # type: ignore[misc]
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(found[:, :24].double() for found in super().forward(images))  # n > C: full rank

    register_feature_extractor("double_lite0", Double)
    a, b = pictures("train", 40), pictures("test", 40) // 2
    found = fidelity_metrics(*(features(extract(extractor, images, batch=16).values[:, :24]) for images in (a, b)))
    folders = save(tmp_path / "a", a), save(tmp_path / "b", b)
    theirs = torch_fidelity_numbers(*folders, 40, fid=True, kid=True, prc=True, feature_extractor="double_lite0")
    assert value(found, "fd_test") == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert value(found, "kid_test") == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    for name in ("precision", "recall"):
        assert value(found, name) == pytest.approx(theirs[name], rel=1e-6)


def test_parity_with_torchmetrics_where_the_resize_is_tensorflows(inception_file: Path, small_inception: None) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    inception = early(Inception(inception_file))
    a, b = pictures("train", 80), pictures("pairs", 80) // 8 * 7
    theirs = FrechetInceptionDistance(feature=64, feature_extractor_weights_path=str(inception_file), antialias=False)
    for images, real in ((a, False), (b, True)):
        theirs.update(torch.from_numpy(images).permute(0, 3, 1, 2), real=real)
    own = frechet_distance(inception.extract(a), inception.extract(b))
    assert own == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_official_pool3_is_called_fid() -> None:
    values = normal(40, 4, 0).astype(np.float32)
    named = Features(values=values, content="", provenance={"extractor": "inception_v3", "batch": 1})
    assert {"fid", "kid", "null_fid", "null_kid", "vae_fid", "vae_kid"} < set(fidelity_metrics(named, named))


def test_without_inceptions_weights_the_reason_says_where_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for home in ("", str(tmp_path)):
        monkeypatch.setenv("TORCH_HOME", home) if home else monkeypatch.delenv("TORCH_HOME", raising=False)
        assert usual_place().parents[1] == Path(torch.hub.get_dir())
    monkeypatch.delenv("BENCH_INCEPTION", raising=False)
    with pytest.raises(UserError, match=r"fid needs .*BENCH_INCEPTION"):
        find_weights()
    with pytest.raises(UserError, match="no such file: .*absent"):
        Inception(tmp_path / "absent.pth")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    kept = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    kept.write_bytes(b"not weights")
    assert find_weights() == kept
    with pytest.raises(UserError, match="can't be read as Inception-v3's weights"):
        Inception()
    torch.save({"conv": torch.zeros(2)}, kept)
    with pytest.raises(UserError, match="can't be read as Inception-v3's weights"):
        Inception()


def of_captions(generator: np.random.Generator, n: int, c: int) -> tuple[Floats, Floats, Floats]:
    """Features of two approaches' pictures and of the true ones, of n captions, which give half of their variance."""
    caption = generator.normal(size=(n, c))
    of = ((1.2, 0.3), (0.8, 0.2), (1.0, 0.0))  # how far from the caption, and from the true ones
    first, second, true = ((caption + own * generator.normal(size=(n, c))) / np.sqrt(2) + far for own, far in of)
    return first, second, true


def test_a_caption_is_left_out_with_both_of_its_pictures() -> None:
    """Dealt apart, what the two have in common is taken for chance: intervals are wider by a tenth or more."""
    n, c, trials = 48, 100, 120
    generator = np.random.default_rng(5)
    for by, most in ((fidelity._frechet_of_blocks, 1.4), (fidelity._kernel_of_blocks, 1.25)):
        differences, errors = list[float](), {True: list[float](), False: list[float]()}
        for _ in range(trials):
            first, second, true = of_captions(generator, n, c)
            for paired, found in errors.items():
                values = by(first, true, BLOCKS, paired=paired) - by(second, true, BLOCKS, paired=paired)
                found.append(float((BLOCKS - 1) / BLOCKS * ((values[1:] - values[1:].mean()) ** 2).sum()))
            differences.append(values[0])
        spread = np.std(differences, ddof=1)
        together, apart = (float(np.sqrt(np.mean(errors[paired]))) / spread for paired in (True, False))
        assert 0.85 < together < most and apart > 1.07 * together, (by, together, apart)


def test_pictures_of_the_true_ones_captions_are_dealt_with_them_and_others_are_not() -> None:
    drawn, real, other = (features(normal(64, 8, seed)) for seed in (0, 1, 2))
    found = fidelity_metrics(drawn, real, other, other, keys=[*map(str, range(64))], paired=True)
    apart = fidelity_metrics(drawn, real, other, other, keys=[*map(str, range(64))])
    for name, each in found.items():
        own = not name.startswith(("null_", "vae_"))
        assert each.details["deal"] == int(own) and apart[name].details["deal"] == 0, name
        assert each.value == pytest.approx(apart[name].value, abs=1e-9), name
        assert (each.details["pseudo"] != apart[name].details["pseudo"]) == own, name
        assert not own or not same_items(each, apart[name]), name
    fewer = replace(drawn, values=drawn.values[1:])  # one was not finite
    assert fidelity_metrics(fewer, real, paired=True)["kid_test"].details["deal"] == 0


def test_the_jackknife_of_each_number_covers_its_expectation() -> None:
    n, c, trials = 64, 4, 300
    generator = np.random.default_rng(3)

    def drawn(blocks: int) -> dict[str, Any]:
        a, b = generator.normal(size=(n, c)) * 0.9 + 0.2, generator.normal(size=(n, c))
        found: dict[str, Any] = {"fd": fidelity._frechet_of_blocks(a, b, blocks)}
        found["kid"] = fidelity._kernel_of_blocks(a, b, blocks)
        return found | neighbour_shares(a, b, k=5, k_coverage=5, blocks=blocks)

    whole, samples = [drawn(0) for _ in range(2000)], [drawn(BLOCKS) for _ in range(trials)]
    for name in samples[0]:
        expected = np.mean([sample[name][0] for sample in whole])
        bounds = [(told.low, told.high) for told in (of_blocks(sample[name], n) for sample in samples)]
        known = [(low, high) for low, high in bounds if low is not None and high is not None]
        assert len(known) > 0.9 * trials, name  # a share may be one that no block changes
        hits = sum(low <= expected <= high for low, high in known)
        assert hits / len(known) >= 0.93, name
        assert hits / trials <= 0.995 or name in ("precision", "recall"), name  # near 1 a block's step is a large one
