"""Pictures of a split with their captions, scenes and latents, made once a machine and read from the disk afterwards.

N pictures; H W a picture's side in pixels, C h w a latent.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from approaches.shared.vae import LatentCodec
from bench.console import Console, Progress
from bench.data.dataset import Dataset
from bench.data.scene import Demand, Scene, Thing
from bench.errors import UserError
from bench.files import atomic_path, cache_directory, hash_bytes, require_space, write_text

REVISION = 1  # part of the cache's key: raise it whenever what is stored changes


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The first pictures of a split, in its own order.

    pictures: uint8 N H W 3, mapped from the disk and not read before somebody looks. captions: of each picture, all.
    scenes: None where nobody knows them. latents: float32 N C h w on the CPU. data_hash: of the split's content and the
    count; latent_hash: of the latents' bytes. exclusions: what the source left out, and why.
    """

    name: str
    split: str
    pictures: NDArray[np.uint8]
    keys: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    scenes: tuple[Scene | None, ...]
    latents: Tensor
    data_hash: str
    latent_hash: str
    exclusions: dict[str, int]

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, rows: Sequence[int]) -> Collection:
        """Some of the pictures, by their numbers."""
        return dataclasses.replace(
            self,
            pictures=self.pictures[rows],
            keys=tuple(self.keys[row] for row in rows),
            captions=tuple(self.captions[row] for row in rows),
            scenes=tuple(self.scenes[row] for row in rows),
            latents=self.latents[rows],
        )

    @property
    def left_out(self) -> list[str]:
        """A sentence for each reason for which pictures were left out, or mended on the way in."""
        return [f"{self.name} {self.split}: {count} x {reason}" for reason, count in self.exclusions.items()]

    def record(self) -> dict[str, Any]:
        """What a run's record says of it."""
        return {
            "name": self.name,
            "split": self.split,
            "pictures": len(self),
            "size": self.pictures.shape[1],
            "data_hash": self.data_hash,
            "latent_hash": self.latent_hash,
            "exclusions": dict(self.exclusions),
        }


def collect(dataset: Dataset, count: int, codec: LatentCodec, console: Console) -> Collection:
    """The first `count` pictures of a split (fewer where it has fewer). UserError where it has none, or where the disk
    can't hold them: pictures are kept as they are, 3 bytes a pixel."""
    data_hash = hash_bytes(dataset.content_hash(), dataset.split, str(count))
    folder = cache_directory() / "pictures"
    key = hash_bytes(data_hash, dataset.name, str(dataset.size), str(REVISION))
    pictures_path, words_path = folder / f"{key}.npy", folder / f"{key}.json"
    stored = _read(pictures_path, words_path)
    if stored is None:
        _write(dataset, count, pictures_path, words_path, console)
        stored = _read(pictures_path, words_path)
    if stored is None:
        raise UserError(f"{pictures_path} changed while it was read: another process is clearing the cache")
    pictures, words = stored
    latents = _latents(pictures, data_hash, codec, console, f"latents of {dataset.name} {dataset.split}")
    collection = Collection(
        name=dataset.name,
        split=dataset.split,
        pictures=pictures,
        keys=tuple(words["keys"]),
        captions=tuple(map(tuple, words["captions"])),
        scenes=tuple(None if scene is None else _scene(scene) for scene in words["scenes"]),
        latents=latents,
        data_hash=data_hash,
        latent_hash=hash_bytes(np.ascontiguousarray(latents.numpy()).reshape(-1).data),
        exclusions=words["exclusions"],
    )
    if collection.left_out:
        console.info(f"{len(collection)} pictures; left out or mended: {'; '.join(collection.left_out)}")
    return collection


def _scene(values: dict[str, Any]) -> Scene:
    """A scene of its JSON. By hand, because looking at type hints 80,000 times takes ten seconds."""
    things = tuple(Thing(**thing) for thing in values["things"])
    return Scene(**{**values, "things": things, "demands": tuple(Demand(**demand) for demand in values["demands"])})


def _latents(pictures: NDArray[np.uint8], key: str, codec: LatentCodec, console: Console, description: str) -> Tensor:
    """The pictures' latents, with a progress line only where they are not on the disk yet."""
    with ExitStack() as stack:
        shown: list[Progress] = []

        def advance(count: int) -> None:
            if not shown:
                shown.append(stack.enter_context(console.progress(len(pictures), description)))
            shown[0].advance(count)

        return codec.encode_images(pictures, key=key, progress=advance)


def _write(dataset: Dataset, count: int, pictures_path: Path, words_path: Path, console: Console) -> None:
    total = min(count, len(dataset))
    if not total:
        raise UserError(f"dataset {dataset.name} has no pictures for {dataset.split}")
    shape = (total, dataset.size, dataset.size, 3)
    require_space(pictures_path.parent, int(np.prod(shape)), f"the cache of {total} pictures")
    keys, captions, scenes = [], [], []
    with (
        atomic_path(pictures_path) as part,
        console.progress(total, f"pictures of {dataset.name} {dataset.split}") as progress,
        part.open("wb") as array,
    ):
        # written, not mapped: a full disk or a quota is an error then, and no signal that ends the process
        np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for place in range(total):
            sample = dataset[place]
            array.write(np.asarray(sample.image, dtype=np.uint8).reshape(shape[1:]).tobytes())
            keys.append(sample.key)
            captions.append(sample.captions)
            scenes.append(None if sample.scene is None else dataclasses.asdict(sample.scene))
            progress.advance(1)
    words = {"keys": keys, "captions": captions, "scenes": scenes, "exclusions": dict(dataset.exclusions)}
    write_text(words_path, json.dumps(words))


def _read(pictures_path: Path, words_path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]] | None:
    """Pictures and words; None where they are absent or not whole, and are to be made again."""
    try:
        words: dict[str, Any] = json.loads(words_path.read_text(encoding="utf-8"))
        # Copy-on-write: torch warns of arrays that can't be written to.
        pictures: NDArray[np.uint8] = np.load(pictures_path, mmap_mode="c")
        whole = len(pictures) == len(words["keys"]) == len(words["captions"]) == len(words["scenes"])
        return (pictures, words) if whole and "exclusions" in words else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
