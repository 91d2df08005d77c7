"""A stream taken up at a sample makes no earlier one."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from bench.data.dataset import IndexedDataset, Sample


class Counted(IndexedDataset):
    """Ten samples, and a record of which were made."""

    name, split, size = "counted", "train", 4

    def __init__(self):
        self.exclusions = Counter()
        self.made = []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.made.append(index)
        return Sample(key=str(index), image=np.zeros((4, 4, 3), np.uint8), captions=("nothing",))

    def content_hash(self):
        return "0" * 16


@pytest.mark.parametrize("start", [0, 3, 10, 1007])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 3)])
def test_skipped_samples_are_not_made(start, rank, world):
    data = Counted()
    got = [sample.key for sample in islice(data.stream(seed=4, start=start, rank=rank, world=world), 5)]
    order = list(islice(data.order(seed=4, rank=rank, world=world), start, start + 5))
    assert data.made == order
    assert got == [str(index) for index in order]
