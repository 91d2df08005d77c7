"""The one interface of every source of captioned pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from bench.data.scene import Scene
from bench.seeds import derive

if TYPE_CHECKING:  # `bench list` names what there is without numpy, whose import was a third of its time
    import numpy as np
    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One captioned picture.

    key: names the sample within its dataset, the same on every machine.
    image: uint8, height width 3, RGB, square, at the dataset's size.
    captions: at least one; the first is the caption to train and draw from.
    scene: what is in the picture, where that is known.
    """

    key: str
    image: NDArray[np.uint8]
    captions: tuple[str, ...]
    scene: Scene | None = None

    @property
    def caption(self) -> str:
        """The first caption."""
        return self.captions[0]


class Dataset(ABC):
    """Captioned pictures of one split.

    size: the pictures' side in pixels.
    exclusions: reason -> how many items of the source were left out for it, or mended on the way in.
    """

    name: str
    split: str
    size: int
    exclusions: Counter[str]

    @abstractmethod
    def content_hash(self) -> str:
        """16 hex digits that change whenever any picture or caption of this split does."""

    @abstractmethod
    def first(self, count: int) -> list[Sample]:
        """The first `count` samples of the split's own fixed order (fewer where it has fewer), for evaluation."""

    @classmethod
    def asks_unseen(cls, scene: Scene | None) -> bool:
        """Of a split `pairs`: whether the caption itself, and not the picture alone, asks for what training never
        combined. A dataset with such a split knows."""
        return True

    @abstractmethod
    def stream(self, *, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Sample]:
        """Samples for training, without end: shuffled anew each epoch from (seed, epoch), every sample on one rank
        only within an epoch. `start` skips that many of this rank's samples, so that a resumed run goes on exactly."""


class IndexedDataset(Dataset):
    """A dataset whose samples have indices: subclasses give `__len__` and `__getitem__`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def first(self, count: int) -> list[Sample]:
        """See Dataset."""
        return [self[index] for index in range(min(count, len(self)))]

    def stream(self, *, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Sample]:
        """See Dataset. Each epoch's shuffled order is cut to a multiple of `world`, so that ranks stay in step.
        Skipped samples are not made."""
        return map(self.__getitem__, islice(self.order(seed=seed, rank=rank, world=world), start, None))

    def order(self, *, seed: int, rank: int = 0, world: int = 1) -> Iterator[int]:
        """The indices that `stream` visits, without end."""
        import numpy as np

        share = len(self) // world
        if share == 0:
            raise ValueError(f"{self.name}: {len(self)} samples can't be split over {world} ranks")
        epoch = 0
        while True:
            generator = np.random.default_rng(derive(seed, "order", epoch))
            yield from generator.permutation(len(self))[rank : share * world : world].tolist()
            epoch += 1
