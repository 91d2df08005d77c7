"""The checker: what its labels say, what it looks at, and that it learns."""

from __future__ import annotations

import pytest
import torch

from approaches.modular import checker as checker_module
from approaches.modular.checker import (
    NEAR,
    TRUE_SHARE,
    WAYS_TO_BE_FALSE,
    WINDOW,
    Checker,
    agreement,
    corrupted,
    drawn_ways,
    nearness,
    windows,
)
from approaches.modular.layout import Layouts, scene_plan
from approaches.shared.kernels import choose
from approaches.shared.patches import Patchify
from approaches.shared.randomness import generator
from bench.data.scene import GRID, parse_plan
from tests.approaches.small import captioned, samples, small_shared


def true_layouts(count: int) -> Layouts:
    return Layouts.of([scene_plan(sample.scene) for sample in samples(0, count)])


def small_checker(width: int = 32, layers: int = 2) -> Checker:
    torch.manual_seed(0)
    return Checker(Patchify(4, 8, 2), width=width, layers=layers, kernels=choose("cpu"))


def false_plans(true: Layouts, draw: torch.Generator) -> Layouts:
    return corrupted(true, drawn_ways(len(true), draw), draw)


def objects(layouts: Layouts, row: int) -> list[tuple]:
    rows = zip(layouts.kinds[row].tolist(), layouts.cells[row].tolist(), layouts.mask[row].tolist(), strict=True)
    return [(tuple(kind), *cell) for kind, cell, counts in rows if counts]


def naive_agreement(planned: Layouts, true: Layouts, row: int) -> tuple[list[bool], bool, bool]:
    plan, scene = objects(planned, row), objects(true, row)

    def same(a: tuple, b: tuple) -> bool:
        return a[0] == b[0] and abs(a[1] - b[1]) <= NEAR and abs(a[2] - b[2]) <= NEAR

    there = [any(same(a, b) for b in scene) for a in plan]
    nothing_more = len(plan) == len(scene) and all(any(same(a, b) for a in plan) for b in scene)
    return there, bool(planned.background[row] == true.background[row]), nothing_more


def test_labels_equal_the_naive_comparison() -> None:
    true = true_layouts(200)
    planned = false_plans(true, generator(0, "test"))
    true = true.widened(planned.mask.shape[1])
    labels = agreement(planned, true)
    for row in range(200):
        there, background, nothing_more = naive_agreement(planned, true, row)
        assert labels[row, :-2][planned.mask[row]].tolist() == there
        assert labels[row, -2:].tolist() == [background, nothing_more]


def test_a_plan_left_true_stays_true_though_places_are_unsteady() -> None:
    true = true_layouts(100)
    planned = corrupted(true, torch.full((100,), -1), generator(0, "test"))
    true = true.widened(planned.mask.shape[1])
    assert (agreement(planned, true)[:, :-2] | ~planned.mask).all() and agreement(planned, true)[:, -2:].all()
    assert not torch.equal(planned.cells, true.cells) and planned.cells.max() < GRID and planned.cells.min() >= 0


@pytest.mark.parametrize("way", WAYS_TO_BE_FALSE)
def test_each_way_of_being_false(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker_module, "JITTER", 0.0)
    true = true_layouts(60)
    planned = corrupted(true, torch.full((60,), WAYS_TO_BE_FALSE.index(way)), generator(0, "test"))
    true = true.widened(planned.mask.shape[1])
    labels = agreement(planned, true)
    right = (labels[:, :-2] | ~planned.mask).all(1) & labels[:, -2] & labels[:, -1]
    assert right.float().mean() <= {"place": 0.35, "other": 0.1}.get(way, 0.0)
    more = {"added": 1, "removed": -1}.get(way, 0)
    if way == "other":
        assert torch.equal(planned.kinds, true.kinds.roll(1, 0)) and torch.equal(planned.cells, true.cells.roll(1, 0))
        assert torch.equal(planned.background, true.background.roll(1))
    else:
        assert torch.equal(planned.mask.sum(1), true.mask.sum(1) + more)
        assert torch.equal(planned.background != true.background, torch.full((60,), way == "background"))
    if way in ("size", "colour", "shape"):
        changed = (planned.kinds != true.kinds).sum(1)
        assert (changed.sum(1) == 1).all() and (changed[:, ("size", "colour", "shape").index(way)] == 1).all()


def test_a_share_of_plans_is_left_true_and_the_ways_are_even() -> None:
    ways = drawn_ways(8000, generator(0, "test"))
    counts = torch.bincount(ways + 1, minlength=len(WAYS_TO_BE_FALSE) + 1) / 8000
    assert (
        abs(counts[0] - TRUE_SHARE) < 0.02
        and (counts[1:] - (1 - TRUE_SHARE) / len(WAYS_TO_BE_FALSE)).abs().max() < 0.015
    )


def test_rows_without_a_scene_stay_unknown_and_give_no_loss() -> None:
    plans = [scene_plan(sample.scene) for sample in samples(0, 6)]
    true = Layouts.of([plan if row % 2 else None for row, plan in enumerate(plans)])
    for seed in range(20):
        planned = false_plans(true, generator(seed, "test"))
        assert torch.equal(planned.known, true.known) and not planned.mask[~true.known].any()
    nothing = Layouts.of([None] * 4)
    model, latents = small_checker(), torch.randn(4, 4, 8, 8)
    loss = model.loss(latents, false_plans(nothing, generator(0, "test")), nothing.widened(5))
    loss.backward()
    assert loss == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())
    verdict, items = model.probabilities(latents, nothing)
    assert (verdict == 1).all() and items.isnan().all()


def test_a_rows_loss_is_the_mean_over_its_items() -> None:
    lines = [
        "plan: large red circle 2 4; light",
        "plan: large red circle 2 4; small blue square 6 1; small green cross 4 7; light",
    ]
    planned, true = (
        Layouts.of([parse_plan(lines[0]), parse_plan(second), None])
        for second in (lines[1], lines[1].replace("light", "dark"))
    )
    model = small_checker()
    with torch.no_grad():  # whatever it looks at, it says yes to every item, by as much
        model.out.weight.zero_()
        model.out.bias.fill_(1.0)
        loss = model.loss(torch.randn(3, 4, 8, 8), planned, true)
    right, wrong = 0.313262, 1.313262  # log(1 + exp(-1)) and log(1 + exp(1))
    # an object, the background and nothing more; three objects, another background and nothing more; no plan
    assert float(loss) == pytest.approx(right + (4 * right + wrong) / 5, abs=1e-5)


def test_windows_hold_the_latent_around_a_place() -> None:
    latents = torch.randn(2, 4, 8, 8)
    cells = torch.tensor([[[2, 5], [0, 0]], [[7, 3], [4, 4]]])
    found = windows(latents, cells).unflatten(-1, (4, WINDOW, WINDOW))
    half = WINDOW // 2
    padded = torch.nn.functional.pad(latents, (half,) * 4)
    for row in range(2):
        for place, (column, line) in enumerate(cells[row].tolist()):
            expected = padded[row, :, line : line + WINDOW, column : column + WINDOW]
            torch.testing.assert_close(found[row, place], expected, atol=1e-5, rtol=1e-5)


def test_nearness_is_a_bell_over_the_patches() -> None:
    near = nearness(torch.tensor([[[2, 5]]]), 8).view(8, 8)
    assert near[5, 2] == 1 and near.argmax() == 5 * 8 + 2
    torch.testing.assert_close(near[5, 4].log() * -2 * checker_module.REACH**2, torch.tensor((2 / 8) ** 2))


def test_neither_order_nor_padding_nor_neighbours_change_a_verdict() -> None:
    model, latents = small_checker().eval(), torch.randn(3, 4, 8, 8)
    lines = [
        "plan: large red circle 2 4; small blue square 6 1; dark",
        "plan: small green cross 1 1; light",
        "plan: small red circle 1 1; small red circle 6 6; large red cross 5 1; small blue cross 1 6; light",
    ]
    turned = ["plan: small blue square 6 1; large red circle 2 4; dark", *lines[1:]]
    layouts = Layouts.of([parse_plan(line) for line in lines])
    with torch.no_grad():
        whole, items = model.probabilities(latents, layouts)
        assert torch.equal(items.isnan(), torch.cat([~layouts.mask, torch.zeros(3, 2, dtype=torch.bool)], 1))
        torch.testing.assert_close(whole, items.nan_to_num(1.0).amin(1))
        others = [
            model.probabilities(latents, Layouts.of([parse_plan(line) for line in turned]))[0],
            model.probabilities(latents, layouts.widened(9))[0],
            torch.cat(
                [model.probabilities(latents[i : i + 1], layouts.select(torch.tensor([i])))[0] for i in range(3)]
            ),
        ]
    for other in others:
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=1e-5)


def test_a_drawing_that_is_not_finite_is_rejected() -> None:
    latents, true = captioned(small_shared(), samples(0, 2)).latents.clone(), true_layouts(2)
    latents[1] = torch.nan
    verdict, items = small_checker(width=64).probabilities(latents, true)
    assert verdict[0] > 0 and verdict[1] == 0 and items[1, 0] == 0


def test_it_learns_to_tell_true_plans_from_false_ones() -> None:
    rows = samples(0, 32)
    latents, true = captioned(small_shared(), rows).latents, true_layouts(32)
    model, draw = small_checker(width=64), generator(0, "test")
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    wide = true.widened(true.mask.shape[1] + 1)
    for _ in range(160):
        loss = model.loss(latents, false_plans(true, draw), wide) / 32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    with torch.no_grad():
        for _ in range(6):
            planned = false_plans(true, draw)
            truth = agreement(planned, wide)[:, :-2][planned.mask]
            said = model.probabilities(latents, planned)[1][:, :-2][planned.mask] >= 0.5
            for label, found in right.items():
                found.append(said[truth == label] == label)
    there, gone = (float(torch.cat(right[label]).float().mean()) for label in (True, False))
    assert there > 0.7 and gone > 0.6 and there + gone > 1.5  # chance is 1


def test_half_of_the_added_objects_are_the_likes_of_one_that_is_there() -> None:
    true = true_layouts(400)
    planned = corrupted(true, torch.full((400,), WAYS_TO_BE_FALSE.index("added")), generator(0, "test"))
    added = planned.kinds[torch.arange(400), true.mask.sum(1)]
    alike = ((added[:, None] == true.kinds).all(-1) & true.mask).any(1).float().mean()
    assert 0.4 < alike < 0.65


def test_a_plan_is_not_swapped_with_a_neighbours_that_is_unknown() -> None:
    plans = [scene_plan(sample.scene) for sample in samples(0, 4)]
    true = Layouts.of([plans[0], None, plans[2], plans[3]])
    planned = corrupted(true, torch.full((4,), WAYS_TO_BE_FALSE.index("other")), generator(0, "test"))
    true = true.widened(planned.mask.shape[1])
    for row, taken in ((0, 3), (2, 2), (3, 2)):
        assert torch.equal(planned.mask[row], true.mask[taken]) and torch.equal(planned.kinds[row], true.kinds[taken])
