"""From pictures to features: once, kept on disk for a reference that many runs share, or of any sizes as they come.

N pictures, C feature size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from bench.files import atomic_path, cache_directory, hash_bytes, require_space
from metrics.features import check_images

CACHE_REVISION = 1
PIXELS = 2**25  # of pictures held at a time, but for a larger one alone: 32 of 1024 x 1024


class Extractor(Protocol):
    """What `metrics.features.FeatureExtractor` and `metrics.inception.Inception` are."""

    name: str
    weights_hash: str
    resize: str
    feature_size: int

    def extract(self, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
        """Features N C of pictures N H W 3."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a set of pictures, N C float32, and where they come from.

    content: a hash of the pictures. provenance: extractor, weights, resize and batch size.
    """

    values: NDArray[np.float32]
    content: str
    provenance: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.values)

    def of(self, rows: NDArray[np.int64]) -> Features:
        """Those of some of the pictures, by their numbers."""
        content = hash_bytes(self.content, np.ascontiguousarray(rows, dtype=np.int64).data)
        return replace(self, values=self.values[rows], content=content)


def extract(extractor: Extractor, pictures: NDArray[np.uint8], *, batch: int = 32, cached: bool = False) -> Features:
    """The features of uint8 pictures, N H W 3. cached: kept on disk under the pictures' content, the extractor's
    weights, resize and dtype, for a reference that many runs share. UserError for other arrays, and for a full disk."""
    check_images(pictures)
    content = hash_of(pictures)
    provenance = _provenance(extractor, batch)
    if not cached:
        return Features(values=extractor.extract(pictures, batch), content=content, provenance=provenance)
    parts = [content, extractor.name, extractor.weights_hash, extractor.resize, "float32", str(CACHE_REVISION)]
    if (device := device_of(extractor)) != "cpu":  # convolutions round otherwise there
        parts.append(device)
    path = cache_directory() / "features" / f"{hash_bytes(*parts)}.safetensors"
    values = None
    if path.exists():
        try:
            values = load_file(path)["features"]
        except (SafetensorError, KeyError, OSError):
            path.unlink(missing_ok=True)  # damaged: made again
    if values is None or values.shape != (len(pictures), extractor.feature_size):
        values = extractor.extract(pictures, batch)
        require_space(path.parent, values.nbytes + 4096, "the cache of features")
        with atomic_path(path) as part:
            save_file({"features": values}, part)
    return Features(values=values, content=content, provenance=provenance)


def extract_each(
    extractor: Extractor,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    sides: Sequence[int] | None = None,
    batch: int = 32,
    advance: Callable[[int], object] | None = None,
) -> Features:
    """The features of square uint8 pictures, H H 3 each and of any sides, of which no more than `batch` are held at a
    time, nor more than PIXELS. sides: where they are known without opening them. Pictures of one size give what
    `extract` gives, but for the content. advance: told how many more are done. UserError for other arrays."""
    values = np.empty((len(pictures), extractor.feature_size), dtype=np.float32)
    contents: list[str] = []
    for start, end in _groups([len(picture) for picture in pictures] if sides is None else sides, batch):
        some = pictures[start:end]
        contents += [hash_of(picture) for picture in some]
        shapes = [picture.shape for picture in some]
        for shape in dict.fromkeys(shapes):
            rows = [row for row, other in enumerate(shapes) if other == shape]
            found = extractor.extract(np.stack([some[row] for row in rows]), batch)
            values[start + np.array(rows)] = found
        if advance is not None:
            advance(len(some))
    return Features(values=values, content=hash_bytes(*contents), provenance=_provenance(extractor, batch))


def _groups(sides: Sequence[int], batch: int) -> Iterator[tuple[int, int]]:
    """Where each group of pictures begins and ends."""
    start, held = 0, 0
    for place, side in enumerate(sides):
        if place > start and (place - start == batch or held + side**2 > PIXELS):
            yield start, place
            start, held = place, 0
        held += side**2
    if start < len(sides):
        yield start, len(sides)


def hash_of(pictures: NDArray[np.uint8]) -> str:
    """Of an array's shape and pixels."""
    return hash_bytes(str(pictures.shape), np.ascontiguousarray(pictures).reshape(-1).data)


def _provenance(extractor: Extractor, batch: int) -> dict[str, Any]:
    return {
        "extractor": extractor.name,
        "weights": extractor.weights_hash,
        "resize": extractor.resize,
        "feature_size": extractor.feature_size,
        "batch": batch,
    }


def device_of(extractor: Extractor) -> str:
    """The type of the device that it computes on."""
    weights: Iterable[Any] = getattr(extractor, "parameters", tuple)()
    place = getattr(extractor, "device", None) or next((weight.device for weight in weights), "cpu")
    return str(place).partition(":")[0]
