"""A trained approach's numbers: knows metrics, not approaches. Every approach is measured on the same held-out things.

N items; C H W a latent; B T windows of token ids. A metric that can't be had is missing, with its reason, and every
other one is still there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from approaches.base import Approach, Prompt, Shared
from approaches.shared.decoding import decode, score
from approaches.shared.language_model import LanguageModel
from approaches.shared.randomness import generator
from bench.collection import Collection, collect
from bench.config import Config
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.data.text import TextCorpus
from bench.errors import UserError
from bench.sampler import Drawn, Sampling, draw
from metrics.captioning import caption_metrics
from metrics.statistics import Estimate, bootstrap, mean_estimate

BANDS = 4
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What every approach is measured on.

    validation: pictures of the fixed triples, with times (N) and noise (N C H W). test: pictures whose captions are
    drawn, and which are described. documents: token ids of held-out texts, each after the start token, and their bytes.
    """

    validation: Collection
    times: Tensor
    noise: Tensor
    test: Collection
    documents: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    window: int


@dataclass(kw_only=True)
class Measured:
    """Numbers, and what a reader looks at: pictures (uint8 N H W 3) with their prompts, captions written, traces."""

    metrics: dict[str, Estimate] = field(default_factory=dict)
    pictures: NDArray[np.uint8] | None = None
    prompts: tuple[str, ...] = ()
    captions: list[str] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)


def hold_out(config: Config, shared: Shared, corpus: TextCorpus, console: Console) -> HeldOut:
    """The held-out things of a config: a pure function of it, the same for every approach."""
    codec, sizes = shared.codecs["image"], config.evaluate
    validation = collect(open_dataset(config.data, "validation"), sizes.triples, codec, console)
    test = collect(open_dataset(config.data, "test"), max(sizes.pictures, sizes.captions), codec, console)
    draws = generator(config.seed, "validation/times"), generator(config.seed, "validation/noise")
    times = shared.diffusion.times(len(validation), draws[0])
    noise = shared.diffusion.noise_like(validation.latents, draws[1])
    texts = [document.text for _, document in zip(range(sizes.documents), corpus.documents("test"), strict=False)]
    model = shared.language_model
    window = min(256, model.transformer.config.context)
    rows = [tuple([model.start_id, *model.encode(text)])[: 8 * window + 1] for text in texts]
    kept = [model.decode(list(row[1:])) for row in rows]
    return HeldOut(
        validation=validation,
        times=times,
        noise=noise,
        test=test,
        documents=tuple(rows),
        sizes=tuple(len(text.encode()) for text in kept),
        window=window,
    )


@torch.no_grad()
def validation_losses(approach: Approach, held: HeldOut, batch: int) -> tuple[Floats, Floats]:
    """The diffusion loss of each fixed triple with its own caption, and with another picture's, N each."""
    diffusion, device = approach.shared.diffusion, next(approach.parameters()).device
    count = len(held.validation)
    captions = [captions[0] for captions in held.validation.captions]
    other = np.roll(np.arange(count), 1)
    losses: list[list[Tensor]] = [[], []]
    for start in range(0, count, batch):
        rows = slice(start, min(count, start + batch))
        latents, noise = held.validation.latents[rows].to(device), held.noise[rows].to(device)
        times = held.times[rows].to(device)
        x_t, target = diffusion.add_noise(latents, noise, times), diffusion.target(latents, noise, times)
        for place, order in enumerate((np.arange(count), other)):
            prompts = [Prompt.text(captions[i], held.validation.scenes[i]) for i in order[rows].tolist()]
            prediction = approach.denoise(x_t, times, approach.condition(prompts))
            losses[place].append(diffusion.loss(prediction, target).cpu())
    right, wrong = (torch.cat(parts).double().numpy() for parts in losses)
    return right, wrong


def measure(approach: Approach, held: HeldOut, config: Config, base: LanguageModel, console: Console) -> Measured:
    """Everything that can be measured of an approach in evaluation mode."""
    approach.eval()
    found = Measured()
    parts: tuple[tuple[str, str, Callable[[], None]], ...] = (
        ("denoise", "validation_loss", lambda: _losses(approach, held, config, found)),
        ("generate", "scene_accuracy", lambda: _pictures(approach, held, config, found, console)),
        ("caption", "caption_loss", lambda: _captions(approach, held, config, found)),
        ("complete", "perplexity_retention", lambda: _language(approach, held, base, found)),
    )
    for capability, main, part in parts:
        if capability not in approach.capabilities:
            found.metrics[main] = Estimate.missing(f"the approach declares no '{capability}'")
            continue
        try:
            part()
        except (UserError, ImportError, NotImplementedError) as error:
            found.metrics.setdefault(main, Estimate.missing(str(error)))
            console.warn(f"{main}: {error}")
    return found


def _losses(approach: Approach, held: HeldOut, config: Config, found: Measured) -> None:
    right, wrong = validation_losses(approach, held, config.evaluate.batch)
    found.metrics["validation_loss"] = mean_estimate(right, better="lower", details={"triples": len(right)})
    found.metrics["caption_gap"] = mean_estimate(
        wrong - right, better="higher", details={"shuffled": "each picture with the next one's caption"}
    )
    edges = np.linspace(0, 1, BANDS + 1)
    times = held.times.numpy()
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (times >= low) & ((times < high) | (high == 1))
        name = f"validation_loss_t{low:g}_{high:g}"
        found.metrics[name] = mean_estimate(right[inside], better="lower", details={"times": [low, high]})


def _pictures(approach: Approach, held: HeldOut, config: Config, found: Measured, console: Console) -> None:
    count = min(config.evaluate.pictures, len(held.test))
    captions = tuple(held.test.captions[i][0] for i in range(count))
    prompts = [Prompt.text(captions[i], held.test.scenes[i]) for i in range(count)]
    sampling = Sampling(
        diffusion=approach.shared.diffusion, nfe=config.diffusion.nfe, guidance=config.diffusion.guidance
    )
    with console.progress(count, "drawing") as progress:
        drawn = draw(
            approach,
            prompts,
            sampling,
            shape=tuple(held.noise.shape[1:]),
            seed=config.seed,
            batch=config.evaluate.batch,
            progress=progress,
        )
    codec = approach.shared.codecs["image"]
    found.pictures, found.prompts, found.trace = codec.decode_images(drawn.latents), captions, drawn.trace
    _costs(drawn, found)
    from metrics.composition import scene_metrics

    scenes = held.test.scenes[:count]
    if any(scene is None for scene in scenes):
        raise UserError("the dataset's scenes are not known")
    found.metrics |= scene_metrics(found.pictures, np.asarray(held.test.pictures[:count]), scenes)
    if drawn.first is not None:
        first = scene_metrics(codec.decode_images(drawn.first), np.asarray(held.test.pictures[:count]), scenes)
        found.metrics["scene_accuracy_0_redraws"] = first["scene_accuracy"]


def _costs(drawn: Drawn, found: Measured) -> None:
    each = np.array([seconds / count for seconds, count in drawn.seconds])
    found.metrics["seconds_per_image"] = Estimate(
        value=float(np.median(each)),
        n=len(each),
        unit="s",
        better="lower",
        reason="median over batches; batches are few, and a machine's noise is no sampling error",
        details={"batches": drawn.seconds, "parts": drawn.parts},
    )
    found.metrics["nfe"] = mean_estimate(np.array(drawn.nfe, dtype=float), better="lower", details={})
    if drawn.tokens:
        found.metrics["planner_tokens"] = Estimate.counted(drawn.tokens / len(drawn.nfe), unit="a picture")


@torch.no_grad()
def _captions(approach: Approach, held: HeldOut, config: Config, found: Measured) -> None:
    count = min(config.evaluate.captions, len(held.test))
    model = approach.shared.language_model
    device = next(approach.parameters()).device
    losses: list[Floats] = []
    shuffled: list[Floats] = []
    seconds = []
    for start in range(0, count, config.evaluate.batch):
        rows = range(start, min(count, start + config.evaluate.batch))
        prompts = [Prompt.image(held.test.latents[i]) for i in rows]
        begun = time.perf_counter()
        opening = approach.text_start(prompts)
        written = decode(opening, approach.text_step, limit=config.train.caption_tokens, end_id=model.end_id)
        seconds.append((time.perf_counter() - begun) / len(rows))
        found.captions += [model.decode(ids).strip() for ids in written]
        for target, order in ((losses, list(rows)), (shuffled, [(i + 1) % count for i in rows])):
            tokens, mask = approach.shared.tokenise([held.test.captions[i][0] for i in order], end=True)
            targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100).to(device)
            nats = score(approach.text_start(prompts), approach.text_step, targets)
            target.append((nats.sum(1) / (targets != -100).sum(1)).double().cpu().numpy())
    right, wrong = np.concatenate(losses), np.concatenate(shuffled)
    found.metrics["caption_loss"] = mean_estimate(right, better="lower", unit="nats a token", details={})
    found.metrics["caption_loss_gap"] = mean_estimate(wrong - right, better="higher", unit="nats a token", details={})
    scenes, references = held.test.scenes[:count], held.test.captions[:count]
    found.metrics |= caption_metrics(found.captions, scenes, references, seed=config.seed)
    found.metrics["seconds_per_caption"] = Estimate(
        value=float(np.median(seconds)), n=len(seconds), unit="s", better="lower", reason="median over batches"
    )


@torch.no_grad()
def _language(approach: Approach, held: HeldOut, base: LanguageModel, found: Measured) -> None:
    """Retention, KL and top-1 agreement against the language model that the approach started from, on the same ids in
    the same windows and batches."""
    rows_of: list[list[float]] = []  # a document: nats, the base's nats, KL, equal argmaxes, tokens
    device = next(approach.parameters()).device
    for document in held.documents:
        sums = np.zeros(5)
        for rows in _windows(document, held.window):
            ids = torch.tensor(rows, device=device)
            adapted = approach.text_logits(ids[:, :-1]).float().log_softmax(-1)
            original = base.transformer.logits(base.transformer(ids[:, :-1])).float().log_softmax(-1)
            following = ids[:, 1:, None]
            sums += [
                -float(adapted.gather(-1, following).double().sum()),
                -float(original.gather(-1, following).double().sum()),
                float((original.exp() * (original - adapted)).double().sum()),
                float((adapted.argmax(-1) == original.argmax(-1)).double().sum()),
                following.numel(),
            ]
        rows_of.append(sums.tolist())
    found.metrics |= language_estimates(np.array(rows_of), held)


def language_estimates(sums: Floats, held: HeldOut) -> dict[str, Estimate]:
    """Ratios of sums over documents, with a bootstrap over documents. sums: a document a row, of nats, the base's nats,
    KL, equal argmaxes, tokens."""
    nats, base, divergence, agreement, tokens = sums.T
    sizes = np.array(held.sizes, dtype=float)
    whole = {"documents": len(nats), "tokens": int(tokens.sum()), "window": held.window}
    better: dict[str, Literal["higher", "lower"]] = {"perplexity_retention": "higher", "top1_agreement": "higher"}
    ratios: dict[str, Callable[[Any], float]] = {
        "perplexity_retention": lambda i: math.exp((base[i] - nats[i]).sum() / tokens[i].sum()),
        "kl_base_adapted": lambda i: float(divergence[i].sum() / tokens[i].sum()),
        "top1_agreement": lambda i: float(agreement[i].sum() / tokens[i].sum()),
        "perplexity": lambda i: math.exp(nats[i].sum() / tokens[i].sum()),
        "bits_per_byte": lambda i: float(nats[i].sum() / math.log(2) / sizes[i].sum()),
    }
    found = {}
    for name, ratio in ratios.items():
        low, high = bootstrap(ratio, len(nats))
        found[name] = Estimate(
            value=ratio(slice(None)),
            low=low,
            high=high,
            n=len(nats),
            unit="nats a token" if name == "kl_base_adapted" else "",
            better=better.get(name, "lower"),
            reason="" if low is not None else "one document has no interval",
            details=whole,
        )
    return found


def _windows(document: Sequence[int], length: int) -> Iterator[list[Sequence[int]]]:
    """Disjoint windows of `length` predictions, each after the one token before it: full ones in one batch, then the
    rest."""
    count = (len(document) - 1) // length
    if count:
        yield [document[i * length : (i + 1) * length + 1] for i in range(count)]
    if (len(document) - 1) % length:
        yield [document[count * length :]]
