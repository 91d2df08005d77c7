"""CLIP, through open_clip: unit embeddings of pictures and texts, and the scores made from them.

N pictures or texts, E embedding width."""

from __future__ import annotations

import difflib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import bench.torchvision_guard  # noqa: F401  (before open_clip, which imports torchvision)
from bench.errors import UserError, first_line
from bench.files import hash_bytes
from bench.reach import NO_ANSWER, hub_or_cache
from bench.seeds import derive
from metrics.statistics import PROJECTED, Estimate, mean_estimate

CANDIDATES = 100  # captions among which a picture's own is looked for
ROWS = 256  # pictures at a time, each against its candidates
DEAF = 32_768  # pictures against another's caption, for the chance of a picture's own to be nearest
SCALE = 100  # a score is this many times the cosine
SCORES = ("clip_score", "clip_score_gap", "clip_retrieval_precision")

Pictures = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


class Clip:
    """An open_clip model with its own preprocessing and tokenizer.

    location: a folder with open_clip_config.json and weights, or MODEL/WEIGHTS (open_clip's architecture and its tag or
    file of weights). UserError where it can't be loaded, as where its tokenizer needs Python of its own, which is never
    run, or where weights and architecture differ in their GELU, of which open_clip only warns. weights_hash: of all its
    tensors.
    """

    def __init__(self, location: str, *, device: torch.device | str = "cpu") -> None:
        import open_clip

        folder = Path(location)
        name, _, weights = location.partition("/")
        known = open_clip.list_models()
        if not folder.is_dir() and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean '{close[0]}/{weights or 'openai'}'?"
                if close
                else "expected one such as ViT-B-32/openai, or a folder as open_clip saves it"
            )
            raise UserError(f"the CLIP model '{location}' is of no architecture that open_clip has: {hint}")
        try:
            here = hub_or_cache(needed=not folder.is_dir())
            with warnings.catch_warnings(), _no_python_of_its_own(), here as reachable:
                warnings.filterwarnings("error", message="QuickGELU mismatch")
                if folder.is_dir():
                    name = f"local-dir:{folder}"
                    model, preprocess = open_clip.create_model_from_pretrained(name)
                else:
                    model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=weights or None)
                tokenizer = _tokenizer(name, folder)
        except Exception as error:  # open_clip raises plain Exceptions, RuntimeErrors and hub errors alike
            reason = first_line(error) if reachable else NO_ANSWER
            raise UserError(f"the CLIP model '{location}' can't be loaded: {reason}") from error
        self.name = folder.name if folder.is_dir() else location
        self.model: Any = model.to(device).eval()
        self.preprocess: Any = preprocess
        self.tokenizer: Any = tokenizer
        self.device = torch.device(device)

    @property
    def weights_hash(self) -> str:
        """Of every tensor, by name."""
        state = sorted(self.model.state_dict().items())
        return hash_bytes(*(part for k, v in state for part in (k, v.cpu().contiguous().numpy().tobytes())))

    @torch.no_grad()
    def embed_images(self, images: Pictures, *, batch: int = 128) -> Tensor:
        """uint8 N H W 3, or N pictures H W 3 of any sizes, `batch` of them asked for at a time -> N E, unit length.
        Floats are refused: CLIP's preprocessing rescales them silently."""
        if isinstance(images, np.ndarray):
            _check(images, 4)
        parts = []
        for start in range(0, len(images), batch):
            some = images[start : start + batch]
            for image in some:
                _check(image, 3)
            pictures = [self.preprocess(Image.fromarray(image)) for image in some]
            found = self.model.encode_image(torch.stack(pictures).to(self.device))
            parts.append(nn.functional.normalize(found.float(), dim=-1).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def embed_texts(self, texts: list[str], *, batch: int = 256) -> Tensor:
        """N texts -> N E, unit length; a text past the model's context is cut by its tokenizer (see `cut`)."""
        parts = []
        for start in range(0, len(texts), batch):
            tokens = self.tokenizer(texts[start : start + batch]).to(self.device)
            parts.append(nn.functional.normalize(self.model.encode_text(tokens).float(), dim=-1).cpu())
        return torch.cat(parts)

    def cut(self, texts: Sequence[str]) -> int:
        """How many texts are longer than the model's context, so that it doesn't read their ends: those that have more
        tokens in a context twice as long."""
        if not texts:
            return 0
        twice = 2 * int(self.tokenizer.context_length) + 2
        # The empty text is padding but for what may begin or end a text, also where the end token pads.
        padding = self.tokenizer([""], context_length=twice)[0].mode().values
        longer, usual = self.tokenizer(list(texts), context_length=twice), self.tokenizer(list(texts))
        return int(((longer != padding).sum(1) > (usual != padding).sum(1)).sum())


@contextmanager
def _no_python_of_its_own() -> Iterator[None]:
    """What a config names of transformers (open_clip's `hf_model_name`) may want Python of its own: transformers asks
    at the terminal then whether to run it, unless it has no time to wait for an answer."""
    from transformers import dynamic_module_utils

    patience = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience


def _tokenizer(name: str, folder: Path) -> Any:
    """The tokenizer of a model, by open_clip's name for it; folder: where it lies, if it is local. No code of its own
    is run: open_clip hands on what a config says of trust_remote_code, unless told. Raises what open_clip does."""
    import open_clip

    if folder.is_dir():
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    else:
        config = open_clip.get_model_config(name) or {}
    if config.get("text_cfg", {}).get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(name, trust_remote_code=False)
    return open_clip.get_tokenizer(name)  # its own tokenizers know no such option


def _check(images: NDArray[np.uint8], dimensions: int) -> None:
    """UserError where an array is no stack of pictures (4 dimensions), or no picture (3)."""
    if images.dtype != np.uint8 or images.ndim != dimensions or images.shape[-1] != 3:
        raise UserError(f"CLIP takes uint8 pictures, N H W 3; these are {images.dtype} of shape {images.shape}")


def clip_metrics(
    clip: Clip,
    pictures: Pictures,
    captions: Sequence[str],
    true_pictures: Pictures | None = None,
    *,
    keys: Sequence[str] | None = None,
    seed: int = 0,
    batch: int = 128,
) -> dict[str, Estimate]:
    """`clip_score`, the mean of 100 times the cosine of a picture and its caption (the raw cosines are in details
    `cosines`; CLIPScore's 2.5 max(cos, 0), arXiv 2104.08718, follows from them), `clip_score_gap`, the same less the
    picture's mean score by CANDIDATES - 1 other captions, all with other words, and `clip_retrieval_precision`, how
    often it is nearer to its own than to any of these (R-precision, arXiv 1711.10485). An item of the gap is what a
    picture and its caption do to the mean, in which a caption stands as another's as well; its details `own` has each
    picture's score less that mean.

    pictures: uint8 N H W 3, or N of any sizes. true_pictures: what the captions were written of, whose own numbers are
    in details `reference`. keys: the items' names. Details: `chance` (of the score: the same pictures with the next
    caption; of the others: each picture as if drawn for another's caption), the model, its weights, and `cut`, how many
    captions are longer than it reads.
    """
    if not len(pictures):
        return {name: Estimate.missing("no pictures", better="higher") for name in SCORES}
    texts, drawn = clip.embed_texts(list(captions), batch=batch), clip.embed_images(pictures, batch=batch)
    true = None if true_pictures is None else clip.embed_images(true_pictures, batch=batch)
    cosines = (drawn * texts).sum(1)
    details: dict[str, Any] = {
        "model": clip.name,
        "weights": clip.weights_hash,
        "batch": batch,
        "cut": clip.cut(captions),
        "context": int(clip.tokenizer.context_length),
    }
    told = {
        **details,
        "cosines": cosines.tolist(),
        "chance": SCALE * float((drawn * texts.roll(-1, 0)).sum(1).double().mean()),
        "reference": None if true is None else SCALE * float((true * texts).sum(1).double().mean()),
    }
    values = SCALE * cosines.double().numpy()
    score = mean_estimate(values, keys=keys, seed=seed, better="higher", details=told)
    others = _others(captions, seed)
    if not others.shape[1]:
        reason = "all captions are the same: there is none to tell a picture's own from"
        precision = Estimate.missing(reason, unit="share", better="higher")
        return {
            "clip_score": score,
            "clip_score_gap": replace(precision, unit=""),
            "clip_retrieval_precision": precision,
        }
    (right, ahead), best = _against(drawn, texts, others), None if true is None else _against(true, texts, others)
    lucky, luckily = _deaf(drawn, texts, others)
    told = {**details, "candidates": others.shape[1] + 1, "chance": luckily, "own": ahead.tolist(), "deal": PROJECTED}
    told["reference"] = None if best is None else float(best[1].mean())
    gap = mean_estimate(ahead - _lent(drawn, texts, captions), keys=keys, seed=seed, better="higher", details=told)
    told = {**details, "candidates": others.shape[1] + 1, "chance": lucky}
    told["reference"] = None if best is None else float(best[0].mean())
    precision = mean_estimate(right, keys=keys, seed=seed, unit="share", better="higher", details=told)
    return {"clip_score": score, "clip_score_gap": gap, "clip_retrieval_precision": precision}


def _others(captions: Sequence[str], seed: int) -> NDArray[np.int64]:
    """For each caption the numbers of up to CANDIDATES - 1 others, no two with the same words, N K; drawn by seed."""
    firsts: dict[str, int] = {}
    for number, text in enumerate(captions):
        firsts.setdefault(text, number)
    distinct = np.array(list(firsts.values()))
    place = {text: position for position, text in enumerate(firsts)}
    count = min(CANDIDATES - 1, len(distinct) - 1)
    rows = []
    for number, text in enumerate(captions):
        generator = np.random.default_rng(derive(seed, "alignment/candidates", number))
        chosen = generator.permutation(len(distinct) - 1)[:count]
        rows.append(distinct[chosen + (chosen >= place[text])])
    return np.array(rows, dtype=np.int64).reshape(len(captions), count)


def _against(
    pictures: Tensor, texts: Tensor, others: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each picture, against the captions `others`, N K: 1 where its own is nearest, a tie is a failure; and by how
    much its own score is above their mean."""
    right, ahead, words = [], [], texts.double()
    for start in range(0, len(others), ROWS):
        rows = slice(start, start + ROWS)
        given = pictures[rows].double()
        own = (given * words[rows]).sum(1)
        theirs = (given[:, None] @ words[torch.from_numpy(others[rows])].transpose(1, 2))[:, 0]
        right.append((own > theirs.amax(1)).double())
        ahead.append(SCALE * (own - theirs.mean(1)))
    return torch.cat(right).numpy(), torch.cat(ahead).numpy()


def _lent(pictures: Tensor, texts: Tensor, captions: Sequence[str]) -> NDArray[np.float64]:
    """What each picture's caption adds to the mean of `_against`'s scores as another picture's: what its words get of
    other pictures, above what all words get (Hoeffding's projection); 0 on average, N. Words stand among the others
    once, so that a caption whose words another one has, too, adds nothing."""
    given = pictures.double()
    theirs = SCALE * ((given.sum(0) - given) * texts.double()).sum(1).numpy() / max(1, len(given) - 1)
    often, first = Counter(captions), {text: place for place, text in reversed([*enumerate(captions)])}
    alone = np.array([often[text] == 1 for text in captions])
    lent = np.where(alone, len(captions) / len(often) * (theirs - theirs[[*first.values()]].mean()), 0.0)
    return np.asarray(lent - lent.mean())


def _deaf(pictures: Tensor, texts: Tensor, others: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """The means of `_against` where every picture was drawn for another's caption: not 1 in K + 1 and 0, for captions
    come as often as they do, and the others once each. Of the score it is exact: what all other pictures get on average
    is what their mean gets. None of one picture."""
    count = len(pictures)
    if count < 2:
        return None, None
    shifts = max(1, min(count - 1, DEAF // count))
    right = [_against(pictures.roll(1 + step * (count - 1) // shifts, 0), texts, others)[0] for step in range(shifts)]
    mean_of_others = (pictures.double().sum(0) - pictures.double()) / (count - 1)
    return float(np.mean(right)), float(_against(mean_of_others, texts, others)[1].mean())
