"""What is measured of drawn pictures: how real they look, whether they heed their captions, whether they were seen in
training, what they cost. Knows metrics, not approaches; a metric that can't be had takes no other down.

N pictures; H W their sides; C h w a latent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from approaches.base import Approach, Shared
from approaches.shared.sources import resolve
from bench import held_out
from bench.collection import Collection
from bench.config import Config
from bench.console import Console
from bench.costs import COSTS, drawing_costs
from bench.data.scene import Scene
from bench.errors import UserError
from bench.files import at_home
from bench.measured import Measured, Names
from bench.memorisation import MEMORISED, memorisation
from bench.sampler import Drawn, Sampling, draw
from metrics.alignment import Clip, clip_metrics
from metrics.composition import BY_TASK, scene_metrics
from metrics.features import FeatureExtractor, open_extractor
from metrics.fidelity import Extractor, distance_metrics, extract, fidelity_metrics
from metrics.inception import Inception
from metrics.statistics import Better, Estimate, mean_estimate

SHARE: tuple[str, Better] = ("share", "higher")
LOWER: tuple[str, Better] = ("", "lower")
SCENES: Names = {
    "scene_accuracy": SHARE, "right_objects": SHARE, "right_objects_gap": SHARE, "parser_accuracy": SHARE,
    **dict.fromkeys(BY_TASK.values(), SHARE),
}  # fmt: skip
ONCE = "_0_redraws"
SCENES_AGAIN = ("scene_accuracy", "right_objects", "right_objects_gap")
SCENES_ONCE: Names = {f"{name}{ONCE}": SHARE for name in SCENES_AGAIN}
PAIRS: Names = {**{f"{name}_pairs": SHARE for name in SCENES_AGAIN}, "nfe_pairs": LOWER}
CLIP: Names = {"clip_score": ("", "higher"), "clip_score_gap": ("", "higher"), "clip_retrieval_precision": SHARE}
CLIP_ONCE: Names = {f"{name}{ONCE}": CLIP[name] for name in ("clip_score", "clip_score_gap")}
FID: Names = {f"{of}{kind}": LOWER for of in ("", "null_", "vae_") for kind in ("fid", "kid")}
NEIGHBOURS: Names = {"precision": SHARE, "recall": SHARE, "density": SHARE, "coverage": SHARE}
FAULTY = 128  # the grey of a picture that is no picture
EXTRACTED = 32  # pictures at a time
REAL_TO_ONE = 4  # real pictures to one drawn, for what counts as close to the training's


def distances(extractor: str) -> Names:
    """The metrics on an extractor's features."""
    own = (f"{of}{kind}_{extractor}" for of in ("", "null_", "vae_") for kind in ("fd", "kid"))
    return {**dict.fromkeys(own, LOWER), **NEIGHBOURS}


def drawn_names(config: Config) -> Names:
    """Every metric of drawn pictures."""
    return {**SCENES, **PAIRS, **CLIP, **FID, **distances(config.evaluate.extractor), **MEMORISED, **COSTS}


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures drawn for the captions of held-out ones, which are `true`; uint8 N H W 3 each.

    finite: N, whether a picture's latent was a number everywhere. One that was not is grey here: the judges of scenes
    turn it down, and the others leave it out, and say how many.
    """

    drawing: Drawn
    images: NDArray[np.uint8]
    true: NDArray[np.uint8]
    finite: NDArray[np.bool_]
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    scenes: tuple[Scene | None, ...]

    def __len__(self) -> int:
        return len(self.images)

    def told(self, found: Mapping[str, Estimate]) -> dict[str, Estimate]:
        """Estimates of the finite pictures, which say how many were left out."""
        left = int((~self.finite).sum())
        if not left:
            return dict(found)
        return {
            name: replace(each, details={**each.details, "excluded": {"not finite": left}})
            for name, each in found.items()
        }


def draw_pictures(
    approach: Approach,
    collection: Collection,
    count: int,
    config: Config,
    console: Console,
    *,
    nfe: int | None = None,
    guidance: float | None = None,
    description: str = "drawing",
) -> Pictures:
    """A picture for the first caption of each of the first `count` pictures, by the config's sampling, or with another
    number of evaluations or guidance. The noise is the same whatever the approach and the sampling."""
    shared, own = approach.shared, config.diffusion
    count = min(count, len(collection))
    captions = tuple(collection.captions[i][0] for i in range(count))
    prompts = approach.prompts(captions, collection.scenes[:count])
    sampling = Sampling(nfe=own.nfe if nfe is None else nfe, guidance=own.guidance if guidance is None else guidance)
    with console.progress(count, description) as progress:
        drawing = draw(
            approach,
            prompts,
            sampling,
            seed=config.seed,
            batch=config.evaluate.batch,
            progress=progress,
        )
    return Pictures(
        drawing=drawing,
        images=decoded(shared, drawing.latents),
        true=np.asarray(collection.pictures[:count]),
        finite=_finite(drawing.latents).numpy(),
        captions=captions,
        keys=collection.keys[:count],
        scenes=collection.scenes[:count],
    )


def decoded(shared: Shared, latents: torch.Tensor) -> NDArray[np.uint8]:
    """Pictures of latents, N C h w; grey where a latent is not finite."""
    images = shared.codecs["image"].decode_images(latents.nan_to_num(0, 0, 0))
    images[~_finite(latents).numpy()] = FAULTY
    return images


def _finite(latents: torch.Tensor) -> torch.Tensor:
    """N, whether a latent, N C h w, is a number everywhere."""
    return latents.isfinite().flatten(1).all(1)


def clip_of(config: Config, device: torch.device) -> Clip:
    """The config's CLIP. UserError where it can't be had."""
    name = config.model.clip
    local = name.startswith("shipped:") or at_home(name).exists()
    return Clip(resolve(name, field="model.clip").location if local else name, device=device)


def inception_of(config: Config, device: torch.device) -> Inception:
    """Inception-v3, with the weights that the config names. UserError where they can't be had."""
    path = config.evaluate.inception
    return Inception(at_home(path) if path else None, device=device)


def as_fid(
    found: Mapping[str, Estimate], inception: Inception, names: Names, field: str = "evaluate.inception"
) -> dict[str, Estimate]:
    """Distances on Inception-v3; on other weights than the official ones, which `field` named, `names` are missing."""
    kept = dict(found)
    if inception.official:
        return kept
    reason = f"{field} names other weights than TensorFlow's: see fd_inception_v3_other"
    return kept | {name: Estimate.missing(reason, unit=u, better=b) for name, (u, b) in names.items()}


class Judges:
    """What pictures are judged by, each opened when it is first asked for. UserError where it can't be had."""

    def __init__(self, config: Config, shared: Shared, console: Console, device: torch.device) -> None:
        self.config, self.shared, self.console, self.device = config, shared, console, device
        self._apart: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The config's."""
        return self.opened(self.config.evaluate.extractor_input)

    def opened(self, size: int) -> FeatureExtractor:
        """The config's extractor at an input size."""
        return open_extractor(self.config.evaluate.extractor, input_size=size, device=self.device)

    @cached_property
    def inception(self) -> Inception:
        """Inception-v3 with the TensorFlow weights, from where the config says."""
        return inception_of(self.config, self.device)

    @cached_property
    def clip(self) -> Clip:
        """The config's."""
        return clip_of(self.config, self.device)

    def fidelity(
        self, pictures: Pictures, extractor: Extractor, by: Callable[..., dict[str, Estimate]] = fidelity_metrics
    ) -> dict[str, Estimate]:
        """Distances and neighbour shares of drawn pictures to the true ones of their captions; the null distance is
        that of as many other real ones, and the VAE's that of these, encoded and decoded."""
        references = [
            extract(extractor, each, batch=EXTRACTED, cached=True)
            for each in (pictures.true, *self.apart(len(pictures)))
        ]
        kept = np.flatnonzero(pictures.finite)
        drawn = extract(extractor, pictures.images[kept], batch=EXTRACTED)
        keys = [pictures.keys[i] for i in kept]
        return pictures.told(by(drawn, *references, keys=keys, paired=True))

    def apart(self, n: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As many other real pictures, and what the VAE makes of them; made once."""
        if n not in self._apart:
            others = held_out.others(self.config, self.shared, n, self.console)
            self._apart[n] = np.asarray(others.pictures[:n]), decoded(self.shared, others.latents[:n])
        return self._apart[n]

    def features(self, pictures: Pictures) -> dict[str, Estimate]:
        """On the config's extractor."""
        return self.fidelity(pictures, self.extractor)

    def fid(self, pictures: Pictures) -> dict[str, Estimate]:
        """On Inception-v3. Other weights than the official ones give no `fid`, but a distance under their own name."""
        return as_fid(self.fidelity(pictures, self.inception, distance_metrics), self.inception, FID)

    def alignment(self, pictures: Pictures) -> dict[str, Estimate]:
        """By CLIP. Where pictures are left out, details `looked_at` has the places of those that are not."""
        kept = np.flatnonzero(pictures.finite)
        found = clip_metrics(
            self.clip,
            pictures.images[kept],
            [pictures.captions[i] for i in kept],
            pictures.true[kept],
            keys=[pictures.keys[i] for i in kept],
            seed=self.config.seed,
        )
        return pictures.told(found if len(kept) == len(pictures) else _looked_at(found, kept))

    def scenes(self, pictures: Pictures) -> dict[str, Estimate]:
        """By the parser of the procedural world."""
        return pictures.told(scene_metrics(pictures.images, pictures.true, pictures.scenes, seed=self.config.seed))


def measure_pictures(
    approach: Approach, collection: Collection, config: Config, found: Measured, console: Console
) -> None:
    """Draw the held-out captions and put everything that is measured of the pictures into `found`."""
    sizes, shared = config.evaluate, approach.shared
    judges = Judges(config, shared, console, next(approach.parameters()).device)
    drawn = draw_pictures(approach, collection, sizes.pictures, config, console)
    found.pictures, found.prompts, found.trace = drawn.images, drawn.captions, drawn.drawing.trace
    if left := int((~drawn.finite).sum()):
        found.notes.append(
            f"{left} of {len(drawn)} pictures were not finite: no scene of theirs is right, and features leave them out"
        )
    if cut := sum(2 + len(shared.language_model.encode(text)) > config.train.caption_tokens for text in drawn.captions):
        found.notes.append(f"{cut} of {len(drawn)} prompts were longer than train.caption_tokens, and cut")
    found.attempt(COSTS, lambda: drawing_costs(approach, drawn.drawing, collection, config), console)
    found.attempt(SCENES, lambda: judges.scenes(drawn), console)
    found.attempt(distances(sizes.extractor), lambda: judges.features(drawn), console)
    found.attempt(FID, lambda: judges.fid(drawn), console)
    found.attempt(CLIP, lambda: judges.alignment(drawn), console)
    if (once := _first_drawings(drawn, shared)) is not None:
        found.attempt(SCENES_ONCE, lambda: _once(SCENES_ONCE, judges.scenes(once)), console)
        looks_once = {f"{kind}_{sizes.extractor}{ONCE}": LOWER for kind in ("fd", "kid")}
        found.attempt(looks_once, lambda: _once(looks_once, judges.features(once)), console)
        found.attempt(CLIP_ONCE, lambda: _once(CLIP_ONCE, judges.alignment(once)), console)
    found.attempt(MEMORISED, lambda: _memorised(judges, drawn), console)
    found.attempt(PAIRS, lambda: _pairs(approach, judges, min(sizes.pairs, sizes.pictures)), console)


def _first_drawings(drawn: Pictures, shared: Shared) -> Pictures | None:
    """The same before any redraw; None where nothing could be drawn again."""
    first = drawn.drawing.first
    return None if first is None else replace(drawn, images=decoded(shared, first), finite=_finite(first).numpy())


def _once(names: Names, found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """What an approach that may draw again gets by its first drawings, for as many evaluations as the others'."""
    return {name: found[name.removesuffix(ONCE)] for name in names}


def _memorised(judges: Judges, drawn: Pictures) -> dict[str, Estimate]:
    config = judges.config
    training = held_out.training(config, judges.shared, judges.console)
    kept = np.flatnonzero(drawn.finite)[: config.evaluate.memorised]
    codec = judges.shared.codecs["image"]
    real = decoded(judges.shared, codec.encode_images(drawn.true[: REAL_TO_ONE * config.evaluate.memorised]))
    why = ""
    try:
        extractor = judges.opened(config.evaluate.memorised_input)
    except UserError as error:  # what latents and captions say needs none
        extractor, why = None, str(error)
    found = memorisation(
        extractor,
        training,
        drawn.images[kept],
        real,
        codec.encode_images(drawn.images[kept]) if len(kept) else drawn.drawing.latents[kept],  # of none, none
        codec.encode_images(real),
        keys=[drawn.keys[i] for i in kept],
        prompts=drawn.captions,
        seed=config.seed,
    )
    if extractor is None:
        found["nearest_training_distance"] = Estimate.missing(why)
    return found if bool(drawn.finite.all()) else _looked_at(found, kept)


def _looked_at(found: Mapping[str, Estimate], kept: NDArray[np.int64]) -> dict[str, Estimate]:
    """With the places of the pictures that are not left out."""
    return {n: replace(each, details={**each.details, "looked_at": kept.tolist()}) for n, each in found.items()}


def _pairs(approach: Approach, judges: Judges, count: int) -> dict[str, Estimate]:
    """The scene metrics on captions that ask for combinations that training never showed, drawn apart, and the
    evaluations that these pictures took; of first drawings too, where an approach may draw again."""
    if not count:
        raise UserError("evaluate.pairs is 0: none were asked for")
    collection = held_out.unseen(judges.config, judges.shared, count, judges.console)
    if collection is None:
        raise UserError(f"dataset '{judges.config.data.name}' holds no combinations back from training")
    if not len(collection):
        raise UserError("no caption that was looked at asks for a combination held back from training")
    drawn = draw_pictures(
        approach, collection, count, judges.config, judges.console, description="drawing unseen combinations"
    )
    found = {f"{name}_pairs": each for name, each in judges.scenes(drawn).items() if name in SCENES_AGAIN}
    spent = np.array(drawn.drawing.nfe, dtype=float)
    found["nfe_pairs"] = mean_estimate(spent, better="lower", keys=drawn.keys, details={})
    if (once := _first_drawings(drawn, judges.shared)) is not None:
        found |= {f"{name}_pairs{ONCE}": each for name, each in judges.scenes(once).items() if name in SCENES_AGAIN}
    return found
