"""What a run keeps for the eye: strips of the shared processes, and nearest training pictures by rule."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.samples import NEIGHBOURS, neighbours
from metrics.statistics import Estimate

KEYS = [f"test/{i}" for i in range(20)]
DISTANCES = [float((7 * i) % 20) for i in range(20)]


def found(**details: Any) -> Any:
    estimate = Estimate(value=1.0, n=20, reason="x", details=details)
    return SimpleNamespace(metrics={"nearest_training_distance": estimate} if details else {})


def training() -> Any:
    return [f"train/{i}" for i in range(30)], np.stack([np.full((8, 8, 3), i, np.uint8) for i in range(30)])


HELD: Any = SimpleNamespace(test=SimpleNamespace(keys=KEYS))


def test_the_first_and_the_nearest_of_all_stand_beside_their_training_pictures(tmp_path: Path):
    nearest = [f"train/{i + 10}" for i in range(20)]
    made = neighbours(tmp_path, found(nearest=nearest, per_item=DISTANCES), HELD, training)
    closest = sorted(range(20), key=DISTANCES.__getitem__)[:NEIGHBOURS]
    assert set(made) == {f"nearest of test/{i}" for i in {*range(NEIGHBOURS), *closest}}
    for name, path in made.items():
        index = int(name.rpartition("/")[2])
        with Image.open(tmp_path / path) as image:
            assert np.asarray(image)[0, 0].tolist() == [index + 10] * 3


def test_a_picture_that_is_not_finite_shifts_no_other_s_neighbour(tmp_path: Path):
    seen = found(nearest=["train/3", "train/4"], per_item=[0.1, 0.2], looked_at=[0, 2])
    made = neighbours(tmp_path, seen, HELD, training)
    assert made == {"nearest of test/0": "samples/0000-nearest.png", "nearest of test/2": "samples/0002-nearest.png"}
    with Image.open(tmp_path / made["nearest of test/2"]) as image:
        assert np.asarray(image)[0, 0].tolist() == [4] * 3


def test_where_nobody_looked_there_is_none_and_training_is_not_opened(tmp_path: Path):
    def closed() -> Any:
        pytest.fail("the training pictures were opened")

    assert neighbours(tmp_path, found(), HELD, closed) == {}
    assert neighbours(tmp_path, found(nearest=[], per_item=[]), HELD, closed) == {}


def test_a_key_that_training_does_not_have_is_left_out(tmp_path: Path):
    made = neighbours(tmp_path, found(nearest=["other/1", "train/2"], per_item=[0.1, 0.2]), HELD, training)
    assert set(made) == {"nearest of test/1"}
