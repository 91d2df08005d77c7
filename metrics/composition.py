"""Whether pictures of the procedural world show what their captions ask for: GenEval's six tasks (arXiv 2310.11513),
judged by `metrics.scene_parser`, whose own accuracy on true pictures stands beside every score.

N pictures, H W their height and width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bench.data.scene import TASKS, Demand, Scene, Thing, satisfied
from bench.seeds import derive
from metrics.scene_parser import Parsed, check_pictures, parse, parse_all
from metrics.statistics import Estimate, mean_estimate

__all__ = [
    "Parsed",
    "parse",
    "parse_all",
    "parser_accuracy",
    "right_objects",
    "scene_accuracy",
    "scene_metrics",
    "share_found",
]

BY_TASK = {task: f"scene_accuracy_{task.replace(' ', '_')}" for task in TASKS}
"""task -> the name of its own accuracy."""
PICTURED = ("scene_accuracy", "right_objects", "right_objects_gap", *BY_TASK.values())
SHIFTS = 24  # other scenes that each picture is judged by, for the chance level
APART = 0.05  # of the side: objects of the picture and of the scene further apart are not the same


def scene_metrics(
    pictures: NDArray[np.uint8], true_pictures: NDArray[np.uint8], scenes: Sequence[Scene | None], *, seed: int = 0
) -> dict[str, Estimate]:
    """`scene_accuracy`, whole and by task, `right_objects` and its gap of pictures drawn for scenes, and
    `parser_accuracy`: the parser's own on the scenes' true pictures, N H W 3 each, which is in the details of the
    others too. Parses each once. Missing, all of them, where a scene is not known."""
    known = [scene for scene in scenes if scene is not None]
    if len(known) < len(scenes):
        reason = f"{len(scenes) - len(known)} of {len(scenes)} pictures come without a known scene"
        missing = Estimate.missing(reason, unit="share", better="higher")
        return {name: missing for name in (*PICTURED, "parser_accuracy")}
    parsed = parse_all(pictures)
    own = parser_accuracy(true_pictures, known, seed=seed)
    found = {
        "scene_accuracy": scene_accuracy(parsed, known, seed=seed),
        "right_objects": right_objects(parsed, known, seed=seed),
        "right_objects_gap": right_objects_gap(parsed, known, seed=seed),
        **_task_accuracies(parsed, known, seed=seed),
    }
    found = {name: replace(e, details={**e.details, "parser_accuracy": own.value}) for name, e in found.items()}
    return found | {"parser_accuracy": own}


def scene_accuracy(
    pictures: NDArray[np.uint8] | Sequence[Parsed],
    scenes: Sequence[Scene],
    *,
    seed: int = 0,
) -> Estimate:
    """The share of pictures that fulfil their captions' demands and relations, as the unweighted mean over the tasks
    that occur. Only what a caption asks for counts; a rejected picture fulfils nothing.

    pictures: uint8 N H W 3, or what `parse_all` gave. Details: `per_item` (1 or 0), `strata` (each item's task),
    `chance` (the same pictures judged by other scenes of their task), `rejected` (reason -> count). Two estimates
    of the same scenes are compared pairwise.
    """
    parsed = _parsed(pictures, scenes)
    right = [float(satisfied(found.things, s.demands, s.relation)) for found, s in zip(parsed, scenes, strict=True)]
    tasks = [scene.task for scene in scenes]
    details = {"chance": _chance(parsed, scenes, seed), "rejected": _rejected(parsed)}
    return mean_estimate(
        right,
        strata=tasks,
        keys=[repr(scene) for scene in scenes],
        seed=seed,
        unit="share",
        better="higher",
        details=details,
    )


def _task_accuracies(parsed: Sequence[Parsed], scenes: Sequence[Scene], *, seed: int = 0) -> dict[str, Estimate]:
    """`scene_accuracy` of each task alone, under its name in BY_TASK; missing where no caption sets the task."""
    found = {}
    for task, name in BY_TASK.items():
        rows = [i for i, scene in enumerate(scenes) if scene.task == task]
        if not rows:
            found[name] = Estimate.missing(f"no caption sets the task '{task}'", unit="share", better="higher")
            continue
        found[name] = scene_accuracy([parsed[i] for i in rows], [scenes[i] for i in rows], seed=seed)
    return found


def right_objects(
    pictures: NDArray[np.uint8] | Sequence[Parsed],
    scenes: Sequence[Scene],
    *,
    seed: int = 0,
) -> Estimate:
    """The mean share of the demanded objects that a picture shows (`share_found`): partial credit, blind to relations
    and to objects nobody asked for. Averaged over tasks as `scene_accuracy` is."""
    parsed = _parsed(pictures, scenes)
    shares = [share_found(found.things, scene.demands) for found, scene in zip(parsed, scenes, strict=True)]
    details = {"rejected": _rejected(parsed)}
    strata = [scene.task for scene in scenes]
    return mean_estimate(
        shares,
        strata=strata,
        keys=[repr(scene) for scene in scenes],
        seed=seed,
        unit="share",
        better="higher",
        details=details,
    )


def right_objects_gap(parsed: Sequence[Parsed], scenes: Sequence[Scene], *, seed: int = 0) -> Estimate:
    """By how much a picture's own `right_objects` exceeds what it gets of other scenes of its task, a mean over up to
    SHIFTS of them: 0 where pictures don't heed their captions. An item is a picture; one alone in its task has none.
    Details: `reference`, what the true pictures get."""
    generator = np.random.default_rng(derive(seed, "composition/right_objects_gap"))
    others: dict[int, list[int]] = {}
    for task in TASKS:
        members = [i for i, scene in enumerate(scenes) if scene.task == task]
        if len(members) < 2:
            continue
        order = generator.permutation(members)
        for place, item in enumerate(order):
            shifts = range(1, min(SHIFTS, len(order) - 1) + 1)
            others[item] = [order[(place + step) % len(order)] for step in shifts]
    if not others:
        return Estimate.missing("no task has two pictures", unit="share", better="higher")
    own = sorted(others)  # as they come, so that seeds, too, are compared by item
    drawn, true = ([_gap(each[item].things, item, others[item], scenes) for item in own] for each in (parsed, scenes))
    strata = [scenes[item].task for item in own]
    best = {task: [gap for gap, of in zip(true, strata, strict=True) if of == task] for task in strata}
    return mean_estimate(
        drawn,
        strata=strata,
        keys=[repr(scenes[item]) for item in own],
        seed=seed,
        unit="share",
        better="higher",
        details={"others": SHIFTS, "reference": float(np.mean([np.mean(gaps) for gaps in best.values()]))},
    )


def _gap(things: Sequence[Thing], item: int, others: Sequence[int], scenes: Sequence[Scene]) -> float:
    """By how much things are an item's rather than its others'."""
    elsewhere = np.mean([share_found(things, scenes[other].demands) for other in others])
    return share_found(things, scenes[item].demands) - float(elsewhere)


def share_found(things: Sequence[Thing], demands: Sequence[Demand]) -> float:
    """The share of demanded objects that can be matched to things one to one; 0 to 1."""
    wanted = [demand for demand in demands for _ in range(demand.count)]
    if not wanted or not things:
        return 0.0 if wanted else 1.0
    fits = np.array([[demand.met_by(thing) for thing in things] for demand in wanted], dtype=float)
    rows, columns = linear_sum_assignment(fits, maximize=True)
    return float(fits[rows, columns].sum() / len(wanted))


def parser_accuracy(
    pictures: NDArray[np.uint8] | Sequence[Parsed], scenes: Sequence[Scene], *, seed: int = 0
) -> Estimate:
    """How often the parser finds exactly what true pictures show: every object's shape, colour and size, each at its
    place to within APART, no object more, and the background. To be printed beside `scene_accuracy`."""
    parsed = _parsed(pictures, scenes)
    exact = [float(_exact(found, scene)) for found, scene in zip(parsed, scenes, strict=True)]
    return mean_estimate(exact, seed=seed, unit="share", better="higher", details={"rejected": _rejected(parsed)})


def _pairs(true: Sequence[Thing], read: Sequence[Thing]) -> list[tuple[Thing | None, Thing | None]]:
    """Objects of the scene with those read at their places."""
    pairs: list[tuple[Thing | None, Thing | None]] = []
    left = list(read)
    if true and read:
        gaps = np.array([[np.hypot(a.x - b.x, a.y - b.y) for b in read] for a in true])
        near = {int(i): int(j) for i, j in zip(*linear_sum_assignment(gaps), strict=True) if gaps[i, j] < 0.19}
    else:
        near = {}
    for number, thing in enumerate(true):
        partner = read[near[number]] if number in near else None
        pairs.append((thing, partner))
        if partner is not None:
            left.remove(partner)
    return pairs + [(None, thing) for thing in left]


def _exact(found: Parsed, scene: Scene) -> bool:
    if found.background != scene.background:
        return False
    for true, read in _pairs(scene.things, found.things):
        if true is None or read is None:
            return False
        if (true.shape, true.colour, true.size) != (read.shape, read.colour, read.size):
            return False
        if np.hypot(true.x - read.x, true.y - read.y) > APART:
            return False
    return True


def _parsed(pictures: NDArray[np.uint8] | Sequence[Parsed], scenes: Sequence[Scene]) -> list[Parsed]:
    if isinstance(pictures, np.ndarray):
        check_pictures(pictures)
        pictures = parse_all(pictures)
    if len(pictures) != len(scenes):
        raise ValueError(f"{len(pictures)} pictures for {len(scenes)} scenes")
    return list(pictures)


def _chance(parsed: Sequence[Parsed], scenes: Sequence[Scene], seed: int) -> float | None:
    """`scene_accuracy` of the pictures against scenes shuffled within their task: the mean over SHIFTS derangements.
    None where no task has two pictures."""
    generator = np.random.default_rng(derive(seed, "composition/chance"))
    shares = []
    for task in TASKS:
        members = np.array([i for i, scene in enumerate(scenes) if scene.task == task], dtype=int)
        if len(members) < 2:
            continue
        order = generator.permutation(members)
        steps = range(1, min(SHIFTS, len(order) - 1) + 1)
        pairs = [(a, b) for step in steps for a, b in zip(order, np.roll(order, step), strict=True)]
        hits = [satisfied(parsed[a].things, scenes[b].demands, scenes[b].relation) for a, b in pairs]
        shares.append(float(np.mean(hits)))
    return float(np.mean(shares)) if shares else None


def _rejected(parsed: Sequence[Parsed]) -> dict[str, int]:
    return dict(Counter(found.rejected for found in parsed if found.rejected))
