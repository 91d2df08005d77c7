"""A trained approach's numbers: knows metrics, not approaches. Every approach is measured on the same held-out things.

N items; C H W a latent; B T windows of token ids. A metric that can't be had is missing, with its reason, and every
other one is still there. Estimates of the same items carry the items' names, so that approaches are compared pairwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from approaches.base import Approach, Prompt
from approaches.shared.decoding import decode, score
from approaches.shared.language_model import LanguageModel
from approaches.shared.prompts import gap
from bench.config import Config
from bench.console import Console
from bench.costs import a_row_each, median_of, rows_of, taken_with
from bench.errors import UserError
from bench.heard import HEARD, heard_metrics
from bench.held_out import LOGITS, HeldOut, Texts, triple_losses
from bench.measured import Measured, Names, row
from bench.meter import now, synchronise
from bench.picture_metrics import drawn_names, measure_pictures
from bench.plans import PLANS, plan_metrics
from metrics.captioning import caption_metrics
from metrics.language import compare, language_metrics
from metrics.statistics import PROJECTED, Estimate, mean_estimate

BANDS = 4
ALONE = "one picture has no other's caption beside its own"
Floats = NDArray[np.float64]

_EDGES = np.linspace(0, 1, BANDS + 1)
_BANDS = [(float(low), float(high)) for low, high in zip(_EDGES[:-1], _EDGES[1:], strict=True)]
LOSSES: Names = {
    "validation_loss": ("", "lower"),
    "caption_gap": ("", "higher"),
    **{f"validation_loss_t{low:g}_{high:g}": ("", "lower") for low, high in _BANDS},
    **{f"caption_gap_t{low:g}_{high:g}": ("", "higher") for low, high in _BANDS},
}
CAPTIONS: Names = {
    "caption_loss": ("nats a token", "lower"), "caption_loss_gap": ("nats a token", "higher"),
    "caption_exact_match": ("share", "higher"), "caption_attribute_f1": ("share", "higher"),
    "caption_f1_gap": ("share", "higher"), "caption_bleu4": ("", "higher"), "caption_cider": ("", "higher"),
    "seconds_per_caption": ("s", "lower"),
}  # fmt: skip
LANGUAGE: Names = {
    "perplexity_retention": ("", "higher"), "perplexity": ("", "lower"), "bits_per_byte": ("bits", "lower"),
    "kl_base_adapted": ("nats", "lower"), "kl_base_adapted_p99": ("nats", "lower"),
    "top1_agreement": ("share", "higher"),
}  # fmt: skip
OTHERS: Names = {name: LANGUAGE[name] for name in ("perplexity_retention", "bits_per_byte")}
"""Of each of evaluate.other_texts, under these names and its label."""


def other_names(label: str) -> Names:
    """The metrics of one of evaluate.other_texts."""
    return {f"{name}_{label}": told for name, told in OTHERS.items()}


def measure(approach: Approach, held: HeldOut, config: Config, base: LanguageModel, console: Console) -> Measured:
    """Everything that can be measured of an approach in evaluation mode."""
    approach.eval()
    found = Measured()

    def losses() -> Mapping[str, Estimate]:
        right, wrong = validation_losses(approach, held, config.evaluate.batch)
        return loss_metrics(right, wrong, held, seed=config.seed)

    def pictures() -> Mapping[str, Estimate]:
        measure_pictures(approach, held.test, config, found, console)
        return found.metrics

    def heard() -> Mapping[str, Estimate]:
        return heard_metrics(approach, held, config.evaluate.batch, seed=config.seed)

    parts: tuple[tuple[str, Names, Callable[[], Mapping[str, Estimate]]], ...] = (
        ("denoise", LOSSES, losses),
        ("denoise", HEARD, heard),
        ("generate", drawn_names(config), pictures),
        ("caption", CAPTIONS, lambda: _captions(approach, held, config, found)),
        ("complete", LANGUAGE, lambda: _language(approach, held.texts, base, config)),
        *(
            ("complete", other_names(label), partial(_other_language, approach, label, texts, base, config))
            for label, texts in held.others.items()
        ),
        ("complete", PLANS, lambda: plan_metrics(approach, base, config, seed=config.seed)),
    )
    for capability, names, part in parts:
        if capability in approach.capabilities:
            found.attempt(names, part, console)
        else:
            found.lack(names, f"the approach declares no '{capability}'")
    found.notes += _short(held, config, found)
    if approach.oracle:
        found.notes.append("its prompts told it the true scenes: what it drew is an upper bound, not a result")
    return found


def _short(held: HeldOut, config: Config, found: Measured) -> list[str]:
    """What was asked for and is not there in that number."""
    sizes, others = config.evaluate, held.others.items()
    there = (
        ("pictures", 0 if found.pictures is None else len(found.pictures), sizes.pictures, "pictures for test"),
        ("captions", len(found.captions), sizes.captions, "pictures for test"),
        ("triples", len(held.validation), sizes.triples, "pictures for validation"),
        ("documents", len(held.texts.ids), sizes.documents, "documents for test"),
        *(("documents", len(texts.ids), sizes.documents, f"documents of {name}") for name, texts in others),
    )
    notes = [
        f"{count} {what}, fewer than evaluate.{name}, {asked}"
        for name, count, asked, what in there
        if 0 < count < asked
    ]
    for part in (held.validation, held.test):
        notes += part.left_out
    for what, texts in (
        ("held-out documents", held.texts),
        *((f"documents of {name}", texts) for name, texts in others),
    ):
        if texts.cut:
            notes.append(f"{texts.cut} of {len(texts.ids)} {what} were cut to their beginnings")
    return notes


# -------------------------------------------------------------------------------------------------------- losses


def validation_losses(approach: Approach, held: HeldOut, batch: int) -> tuple[Floats, Floats]:
    """The diffusion loss of each fixed triple with its own caption, and with another picture's, N each."""
    count = len(held.validation)
    prompts = approach.prompts([captions[0] for captions in held.validation.captions], held.validation.scenes)
    right, wrong = (
        triple_losses(approach, held, range(count), some, batch) for some in (prompts, prompts[-1:] + prompts[:-1])
    )
    return right, wrong


def loss_metrics(
    right: Floats, wrong: Floats, held: HeldOut, *, seed: int = 0, bands: bool = True
) -> dict[str, Estimate]:
    """`validation_loss` and `caption_gap` of the fixed triples' losses, N each, and with `bands` both for each quarter
    of the times."""
    keys = np.array(held.validation.keys)
    shuffled = "each picture with the caption of the one before it"

    def both(inside: NDArray[np.bool_], name: str, details: dict[str, object]) -> dict[str, Estimate]:
        named = keys[inside].tolist()
        return {
            f"validation_loss{name}": mean_estimate(
                right[inside], keys=named, seed=seed, better="lower", details=details
            ),
            f"caption_gap{name}": mean_estimate(
                (wrong - right)[inside], keys=named, seed=seed, better="higher", details={**details, "wrong": shuffled}
            )
            if len(right) > 1
            else Estimate.missing(ALONE, better="higher"),
        }

    found = both(np.ones(len(right), dtype=bool), "", {"triples": len(right)})
    for name, ends, inside in _bands(held) if bands else ():
        found |= both(inside, name, {"times": ends})
    return found


def _bands(held: HeldOut) -> Iterator[tuple[str, list[float], NDArray[np.bool_]]]:
    """Each quarter of the times: how metrics of it end, its ends, and which triples lie in it."""
    times = held.times.numpy()
    for low, high in _BANDS:
        yield f"_t{low:g}_{high:g}", [low, high], (times >= low) & ((times < high) | (high == 1))


def validation_row(approach: Approach, held: HeldOut, batch: int, seed: int) -> dict[str, float]:
    """The losses of the fixed triples as numbers of a training curve's row: with intervals, and means by time band."""
    right, wrong = validation_losses(approach, held, batch)
    found = row(loss_metrics(right, wrong, held, seed=seed, bands=False))
    for name, _, inside in _bands(held):
        if inside.any():
            found[f"validation_loss{name}"] = float(right[inside].mean())
        if inside.any() and len(right) > 1:
            found[f"caption_gap{name}"] = float((wrong - right)[inside].mean())
    return {name: value for name, value in found.items() if math.isfinite(value)}  # no record takes others


# -------------------------------------------------------------------------------------------------- image to text


@torch.no_grad()
def _captions(approach: Approach, held: HeldOut, config: Config, found: Measured) -> dict[str, Estimate]:
    """Descriptions of held-out pictures, and what the true ones cost in nats a token."""
    count = min(config.evaluate.captions, len(held.test))
    model, device = approach.shared.language_model, next(approach.parameters()).device
    losses: list[Floats] = []
    shuffled: list[Floats] = []
    seconds: list[tuple[float, int]] = []
    captions: list[str] = []
    for start in range(0, count, config.evaluate.batch):
        rows = range(start, min(count, start + config.evaluate.batch))
        prompts = [Prompt.image(held.test.latents[i]) for i in rows]
        synchronise(device)
        begun = now()
        opening = approach.text_start(prompts)
        written = decode(opening, approach.text_step, limit=config.train.caption_tokens, end_id=model.end_id)
        synchronise(device)
        seconds.append((now() - begun, len(rows)))
        captions += [model.decode(ids).strip() for ids in written]
        for target, order in ((losses, list(rows)), (shuffled, [(i + 1) % count for i in rows])):
            texts = [gap(model, config.train.describe_prompt) + held.test.captions[i][0] for i in order]
            tokens, mask = approach.shared.tokenise(texts, end=True)
            targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100).to(device)
            # read anew: what somebody's `text_step` does to a state that it was given is not known
            nats = score(approach.text_start(prompts), approach.text_step, targets)
            target.append((nats.sum(1) / (targets != -100).sum(1)).double().cpu().numpy())
    found.captions = captions
    right, wrong = np.concatenate(losses), np.concatenate(shuffled)
    told = {"keys": held.test.keys[:count], "seed": config.seed, "unit": "nats a token", "details": {}}
    of_captions = {**told, "details": {"deal": PROJECTED}}
    return {
        "caption_loss": mean_estimate(right, better="lower", **told),  # type: ignore[arg-type]
        # an item is a caption, beside the picture before and beside its own: how hard its words are stays out
        "caption_loss_gap": mean_estimate(np.roll(wrong, 1) - right, better="higher", **of_captions)  # type: ignore[arg-type]
        if count > 1
        else Estimate.missing(ALONE, unit="nats a token", better="higher"),
        **caption_metrics(captions, held.test.scenes[:count], held.test.captions[:count], seed=config.seed),
        "seconds_per_caption": median_of(a_row_each(seconds), taken_with(approach, rows_of(seconds))),
    }


# --------------------------------------------------------------------------------------------------- text to text


PROBE = ("Text is read twice here, as a whole", " and word for word, and both ways give the same.")
SAME = 1e-2  # nats that log-probabilities may differ by: float32 over caches and batches strays by some 1e-4


def _check_text(approach: Approach, base: LanguageModel) -> None:
    """UserError where what an approach writes by, `text_start` and `text_step`, is not what it is judged by,
    `text_logits`: retention would then be of another model than the one that writes."""
    device = next(approach.parameters()).device
    first, more = ([*base.encode(words)] for words in PROBE)
    first = first[: approach.shared.caption_tokens - 2]  # as a prompt is cut
    ids = torch.tensor([[base.start_id, *first, *more]], device=device)
    with torch.no_grad():
        start, state = approach.text_start([Prompt.text(PROBE[0])])
        steps, _ = approach.text_step(ids[:, -len(more) :], state)
        judged = approach.text_logits(ids)[:, -len(more) - 1 :]
    written = torch.cat([start[:, None], steps], 1)
    strayed = float((written.float().log_softmax(-1) - judged.float().log_softmax(-1)).abs().amax())
    if not strayed <= SAME:
        raise UserError(
            f"{type(approach).__name__}.text_logits differs from what text_start and text_step say of the same words, "
            f"by {strayed:.3g} nats: text would be judged by another model than the one that writes"
        )


def _language(approach: Approach, texts: Texts, base: LanguageModel, config: Config) -> dict[str, Estimate]:
    """Against the language model that the approach started from, on the same ids in the same windows and batches."""
    _check_text(approach, base)
    model = base.transformer
    batch = max(1, min(config.evaluate.batch, LOGITS // (texts.window * model.config.vocabulary)))
    compared = compare(
        approach.text_logits,
        lambda ids: model.logits(model(ids)),
        texts.ids,
        start=base.start_id,
        length=texts.window,
        batch=batch,
        device=next(approach.parameters()).device,
    )
    return language_metrics(compared, texts.sizes, length=texts.window, batch=batch, keys=texts.keys, seed=config.seed)


def _other_language(
    approach: Approach, label: str, texts: Texts, base: LanguageModel, config: Config
) -> dict[str, Estimate]:
    """The same on text that is not replayed. UserError where nothing of it is left."""
    if not texts.ids:
        raise UserError(f"nothing of '{label}' is left beside the text that is replayed")
    found = _language(approach, texts, base, config)
    return {f"{name}_{label}": found[name] for name in OTHERS}
