"""The one interface of every source of captioned pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.data.scene import Scene

if TYPE_CHECKING:  # `bench list` names what there is without numpy, whose import was a third of its time
    import numpy as np
    from numpy.typing import NDArray

    from bench.config import DataConfig

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
    splits: ClassVar[tuple[str, ...]] = SPLITS
    split: str
    size: int
    exclusions: Counter[str]

    @classmethod
    @abstractmethod
    def build(cls, config: DataConfig, split: str) -> Dataset:
        """The split, one of `splits`, that a config asks for: at most config.bound(split) pictures, at config.size.
        UserError where there is none."""

    @abstractmethod
    def content_hash(self) -> str:
        """16 hex digits that change whenever any picture or caption of this split does."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample at a place, from 0, of the split's own fixed order, in which it is trained on and measured."""

    def first(self, count: int) -> list[Sample]:
        """The first `count` samples, fewer where there are fewer."""
        return [self[index] for index in range(min(count, len(self)))]

    @classmethod
    def asks_unseen(cls, scene: Scene | None) -> bool:
        """Of a split `pairs`: whether the caption itself, and not the picture alone, asks for what training never
        combined. A dataset with such a split knows."""
        return True
