"""Evaluation: what a number means is held against cases whose answer is known; one that can't be had takes no other
down; what was left out or cut is said; and approaches are compared item by item."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from approaches.base import Approach, Generation, NoiseFor, Prompt, Sampler, Shared
from approaches.registry import APPROACHES
from approaches.shared import decoding
from approaches.shared.prompts import gap as between
from approaches.shared.randomness import generator
from bench import evaluate, held_out, picture_metrics
from bench.batches import tokenise
from bench.config import Config, DataConfig, DiffusionConfig, EvaluateConfig, TextConfig
from bench.console import Console
from bench.data.text import Document, TextFile
from bench.errors import UserError
from bench.evaluate import (
    CAPTIONS,
    LANGUAGE,
    LOSSES,
    _captions,
    _check_text,
    loss_metrics,
    measure,
    validation_losses,
    validation_row,
)
from bench.heard import HEARD
from bench.held_out import LONGEST, HeldOut, _texts, hold_out, hold_out_others, training, triple_losses
from bench.measured import Measured, row
from bench.meter import machine
from bench.picture_metrics import (
    FAULTY,
    Judges,
    Pictures,
    _first_drawings,
    _memorised,
    _pairs,
    draw_pictures,
    drawn_names,
)
from bench.plans import PLANS
from bench.sampler import Drawn, Sampling, draw
from bench.samples import strips
from metrics.composition import BY_TASK
from metrics.differences import difference
from metrics.features import open_extractor
from metrics.fidelity import extract, nearest
from metrics.statistics import Estimate, mean_estimate
from tests.approaches.small import small_shared

CONFIG = Config(
    data=DataConfig(train_items=64, eval_items=64),
    text=TextConfig(name="file"),
    diffusion=DiffusionConfig(nfe=2),
    evaluate=EvaluateConfig(
        pictures=12,
        captions=6,
        documents=5,
        triples=12,
        batch=5,
        pairs=6,
        memorised=4,
        extractor_input=32,
        memorised_input=32,
    ),
)
QUIET = Console(interval=1e9)
Held = tuple[Shared, HeldOut, Config]


def made(name: str) -> Approach:
    entry = APPROACHES[name]
    approach: Approach = entry.load()(small_shared(), entry.load_settings()())
    return approach


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {i} tells of number {i * i}, and of nothing else." for i in range(300)))
    shared = small_shared()
    config = replace(CONFIG, text=replace(CONFIG.text, path=str(path)))
    return shared, hold_out(config, shared, TextFile.build(config.text), QUIET), config


def measured(held: Held, approach: Approach) -> Measured:
    shared, fixed, config = held
    return measure(approach, fixed, config, shared.language_model, QUIET)


@pytest.fixture(scope="module")
def untrained(held: Held) -> Iterator[Mapping[str, Mapping[str, Estimate]]]:
    """What is measured of every approach before training."""
    yield {name: measured(held, made(name)).metrics for name in APPROACHES}


@pytest.mark.parametrize("name", list(APPROACHES))
def test_an_untrained_approach_has_every_number_and_hears_nothing(untrained: Any, name: str) -> None:
    found = untrained[name]
    lacking = {each: found[each].reason for each in found if found[each].value is None}
    fid = {"fid", "kid", "null_fid", "null_kid", "vae_fid", "vae_kid"}
    few = {each for each, reason in lacking.items() if reason == "no items"}  # twelve times leave a quarter empty
    unasked = {each for each, reason in lacking.items() if reason.startswith("no caption sets the task")}
    assert few < set(LOSSES) and unasked < set(BY_TASK.values()), lacking  # of a dozen captions not all six are asked
    assert set(lacking) - few - unasked == fid, lacking
    assert all("weights" in lacking[each] for each in fid)
    assert {*drawn_names(CONFIG), *LOSSES, *HEARD, *CAPTIONS, *LANGUAGE, *PLANS} - set(found) == set()
    for gap in ("caption_gap", *HEARD):
        assert found[gap].value == pytest.approx(0, abs=1e-6)  # the output starts at zero, whatever the caption
    assert found["perplexity_retention"].value == 1.0
    assert found["top1_agreement"].value == 1.0 and found["kl_base_adapted"].value == 0.0
    assert found["nfe"].value and found["nfe"].value >= 2 and found["seconds_to_first_image"].n == 6
    assert found["parser_accuracy"].value == 1.0
    pairs = found["right_objects_gap_pairs"]
    assert found["nfe_pairs"].n == 6 and pairs.n <= 6  # one alone in its task has no gap
    assert all("colour" in task for task in found["scene_accuracy_pairs"].details["strata"])
    assert ("right_objects_gap_pairs_0_redraws" in found) == ("right_objects_gap_0_redraws" in found)


class Official:
    """Inception-v3 to its users: the mean of each channel, and how much it varies."""

    name, weights_hash, resize, feature_size, official = "inception_v3", "6726825d", "to 299", 6, True

    def extract(self, pictures: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
        return np.concatenate([pictures.mean((1, 2)), pictures.std((1, 2))], 1).astype(np.float32)


def test_with_the_official_weights_there_is_a_fid(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_metrics, "inception_of", lambda *_: Official())
    found = measured(held, made("dual_tower")).metrics
    for name in ("fid", "kid", "null_fid", "null_kid", "vae_fid", "vae_kid"):
        assert found[name].value is not None and found[name].details["extractor"] == "inception_v3", name
    assert found["fd_efficientnet_lite0"].details["extractor"] != "inception_v3"


COMPARED = (
    "validation_loss", "caption_gap", "validation_loss_t0.25_0.5", "clip_score", "clip_retrieval_precision",
    "scene_accuracy", "right_objects", "right_objects_gap", "scene_accuracy_pairs", "fd_efficientnet_lite0",
    "kid_efficientnet_lite0", "precision", "caption_loss", "caption_loss_gap", "caption_attribute_f1",
    "caption_f1_gap", "caption_cider", "perplexity", "bits_per_byte", "perplexity_retention", "kl_base_adapted",
    "top1_agreement", "training_copies_latent",
)  # fmt: skip


@pytest.mark.parametrize("metric", COMPARED)
def test_approaches_are_compared_item_by_item(untrained: Any, metric: str) -> None:
    a, b = (found[metric] for found in list(untrained.values())[:2])
    assert a.details["items"] == b.details["items"]
    assert difference(a, b).paired


def test_what_is_missing_can_be_compared_with_what_is_there(untrained: Any) -> None:
    found = untrained["dual_tower"]
    gone = Measured()
    for names in (drawn_names(CONFIG), LOSSES, HEARD, CAPTIONS, LANGUAGE):
        gone.lack(names, "nothing")
    for name, missing in gone.metrics.items():
        if missing.better and name in found:
            assert difference(found[name], missing).word == "not told apart"


def test_a_number_does_not_depend_on_the_batch_size(held: Held) -> None:
    shared, fixed, _ = held
    approach = made("dual_tower").eval()
    with torch.no_grad():
        for parameter in approach.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    one, many = validation_losses(approach, fixed, 1), validation_losses(approach, fixed, 12)
    np.testing.assert_allclose(one[0], many[0], rtol=1e-4)
    np.testing.assert_allclose(one[1], many[1], rtol=1e-4)
    found = validation_row(approach, fixed, 12, seed=0)
    assert found["validation_loss_low"] < found["validation_loss"] < found["validation_loss_high"]
    means = loss_metrics(*many, fixed)
    for name in found:
        assert found[name] == means[name.removesuffix("_low").removesuffix("_high")].value or name.endswith(
            ("_low", "_high")
        )
    bands = [name for name in found if name.startswith("validation_loss_t")]
    times = fixed.times.numpy()
    counts = {name: ((times >= float(name.split("_t")[1].split("_")[0])).sum()) for name in bands}
    assert bands and all(counts.values())
    prompts = [Prompt.text(captions[0]) for captions in fixed.test.captions[:5]]
    sampling = Sampling(nfe=3, guidance=2.0)
    whole = draw(approach, prompts, sampling, seed=0, batch=5)
    parts = draw(approach, prompts, sampling, seed=0, batch=2)
    torch.testing.assert_close(whole.latents, parts.latents, atol=1e-4, rtol=1e-4)
    assert whole.nfe == [3] * 5
    other = draw(approach, prompts, sampling, seed=1, batch=5)
    assert not torch.allclose(whole.latents, other.latents)


def test_a_curves_row_holds_finite_numbers_alone(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """One triple that overflows: the row goes into a record, which takes no other numbers."""
    approach = made("dual_tower").eval()
    right, wrong = validation_losses(approach, held[1], 12)
    right[0] = np.inf
    monkeypatch.setattr(evaluate, "validation_losses", lambda *_: (right, wrong))
    found = validation_row(approach, held[1], 12, seed=0)
    assert len([name for name in found if name.startswith("validation_loss_t")]) == 3  # one band of four has it
    assert all(map(math.isfinite, found.values()))


def test_who_draws_without_a_denoiser_keeps_its_other_costs(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that writes codes of a picture."""
    approach = made("dual_tower")
    monkeypatch.setattr(type(approach), "capabilities", frozenset({"generate", "caption", "complete"}))
    found = measured(held, approach).metrics
    assert found["flops_per_image"].reason == "the approach declares no 'denoise', which is what is counted"
    for name in ("seconds_per_image", "seconds_to_first_image", "nfe"):
        assert found[name].value is not None, name


def test_a_changed_language_model_loses_text(held: Held) -> None:
    approach = made("full_retraining")
    with torch.no_grad():
        for parameter in approach.language_model.parameters():
            parameter.mul_(1.2)
    found = measured(held, approach).metrics
    values = {
        name: float(found[name].value or 0) for name in ("perplexity_retention", "kl_base_adapted", "top1_agreement")
    }
    assert 0 < values["perplexity_retention"] < 0.9
    assert values["kl_base_adapted"] > 0.05 and 0 < values["top1_agreement"] < 0.95
    assert len(found["perplexity"].details["documents"]["adapted_nats"]) == found["perplexity"].n


def test_what_is_kept_of_text_that_is_not_replayed_is_measured_by_itself(held: Held) -> None:
    shared, fixed, config = held
    asked = replace(config, evaluate=replace(config.evaluate, other_texts=("world", "readmes")))
    others = hold_out_others(asked, shared, TextFile.build(asked.text), QUIET)
    assert {label: len(texts.ids) for label, texts in others.items()} == {"world": 5, "readmes": 5}
    assert others["world"].keys[0].startswith("test/000000 ")  # and its content
    nothing = replace(others["world"], keys=(), ids=(), sizes=())
    fixed = replace(fixed, others={**others, "replayed": nothing})
    kept = measured((shared, fixed, asked), made("dual_tower"))
    approach = made("full_retraining")
    with torch.no_grad():
        for parameter in approach.language_model.parameters():
            parameter.mul_(1.2)
    lost = measured((shared, fixed, asked), approach)
    values = []
    for label in others:
        name = f"perplexity_retention_{label}"
        assert kept.metrics[name].value == kept.metrics[name].low == 1.0
        assert 0 < (lost.metrics[name].value or 0) < 1 and difference(kept.metrics[name], lost.metrics[name]).paired
        assert lost.metrics[f"bits_per_byte_{label}"].value > kept.metrics[f"bits_per_byte_{label}"].value  # type: ignore[operator]
        values.append(lost.metrics[name].value)
    assert len({*values, lost.metrics["perplexity_retention"].value}) == 3
    assert kept.metrics["perplexity_retention_replayed"].reason == (
        "nothing of 'replayed' is left beside the text that is replayed"
    )
    silent = made("dual_tower")
    silent.capabilities = frozenset({"denoise"})  # type: ignore[misc]
    lacking = measured((shared, fixed, asked), silent).metrics["bits_per_byte_world"]
    assert lacking.value is None and "declares no 'complete'" in lacking.reason


def test_a_prompt_is_cut_where_its_training_was(held: Held) -> None:
    shared = held[0]
    words = "a large red circle left of a small blue square " * 9
    trained, mask, cut = tokenise(shared.language_model, (words,), shared.caption_tokens)
    assert cut == 1 and mask.all() and trained.shape[1] == shared.caption_tokens
    assert torch.equal(shared.tokenise([words])[0], trained[:, :-1])
    assert torch.equal(shared.tokenise([words], end=True)[0], trained)


def test_one_picture_has_no_gap_and_that_is_no_gap_of_zero() -> None:
    alone: Any = SimpleNamespace(validation=SimpleNamespace(keys=("one",)), times=torch.tensor([0.3]))
    found = loss_metrics(np.array([1.0]), np.array([1.0]), alone)
    assert found["validation_loss"].value == 1.0
    assert found["caption_gap"].value is None and "no other's caption" in found["caption_gap"].reason


def test_pure_noise_is_of_the_last_quarter_of_the_times() -> None:
    """Discrete times reach 1, where the last quarter ends."""
    two: Any = SimpleNamespace(validation=SimpleNamespace(keys=("one", "two")), times=torch.tensor([0.3, 1.0]))
    found = loss_metrics(np.array([1.0, 3.0]), np.array([2.0, 7.0]), two)
    assert found["validation_loss_t0.75_1"].value == 3.0 and found["caption_gap_t0.75_1"].value == 4.0


@torch.no_grad()
def test_captions_cost_what_they_cost_by_hand(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nats a token of each picture's caption, less those of the next one's after it; seconds a picture."""
    shared, fixed, config = held
    ticks = itertools.count()
    monkeypatch.setattr("bench.evaluate.now", lambda: float(next(ticks)))
    asked = replace(config, evaluate=replace(config.evaluate, captions=3, batch=2))
    approach = made("full_retraining").eval()
    found = _captions(approach, fixed, asked, Measured())

    def cost(picture: int, caption: int) -> float:
        words = between(shared.language_model, config.train.describe_prompt) + fixed.test.captions[caption][0]
        targets = shared.tokenise([words], end=True)[0][:, 1:]
        start = approach.text_start([Prompt.image(fixed.test.latents[picture])])
        return float(decoding.score(start, approach.text_step, targets).mean())

    own, others = ([cost((i - by) % 3, i) for i in range(3)] for by in (0, 1))
    assert found["caption_loss"].details["per_item"] == pytest.approx(own, rel=1e-4)
    gaps = [other - each for other, each in zip(others, own, strict=True)]
    assert found["caption_loss_gap"].details["per_item"] == pytest.approx(gaps, abs=1e-3)
    assert found["seconds_per_caption"].value == 0.5  # of the full batch, of two pictures at once
    assert found["seconds_per_caption"].details == {"rows": 2, "machine": machine("cpu")}


def test_a_description_is_right_by_any_of_its_picture_s_captions(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, fixed, config = held
    second = [captions[1] for captions in fixed.test.captions[: config.evaluate.captions]]
    assert all(captions[0] != captions[1] for captions in fixed.test.captions[: len(second)])
    written = iter(second)

    def describe(opening: tuple[Tensor, Any], *_: Any, **__: Any) -> list[list[int]]:
        return [shared.language_model.encode(next(written)) for _ in opening[0]]

    monkeypatch.setattr("bench.evaluate.decode", describe)
    measured = Measured()
    found = _captions(made("projection").eval(), fixed, config, measured)
    assert measured.captions == second and found["caption_bleu4"].value == pytest.approx(1.0)
    assert found["caption_attribute_f1"].value == 1.0  # they tell all of their own scenes


def test_a_cut_document_has_the_bytes_that_are_read_of_it() -> None:
    shared = small_shared()
    long = Document(key="long", group="a", text="Paragraphs tell of numbers, and of nothing else. " * 600)
    short = Document(key="short", group="b", text="One snowman: \N{SNOWMAN}")
    texts = _texts(shared, [long, short])
    assert texts.cut == 1 and len(texts.ids[0]) == LONGEST * texts.window
    assert texts.sizes[0] == len(shared.language_model.decode(list(texts.ids[0])).encode()) < len(long.text)
    assert texts.sizes[1] == len(short.text.encode())


def test_a_first_drawing_may_be_no_number_where_the_last_is_one() -> None:
    first = torch.zeros(2, 4, 8, 8)
    first[1, 0, 0, 0] = torch.nan
    pictures = Pictures(
        drawing=Drawn(latents=torch.zeros(2, 4, 8, 8), first=first, nfe=[1, 1], tokens=0, seconds=[]),
        images=np.zeros((2, 32, 32, 3), np.uint8), true=np.zeros((2, 32, 32, 3), np.uint8),
        finite=np.ones(2, dtype=bool), captions=("a", "b"), keys=("a", "b"), scenes=(None, None),
    )  # fmt: skip
    once = _first_drawings(pictures, small_shared())
    assert once is not None and once.finite.tolist() == [True, False]
    assert (once.images[1] == FAULTY).all() and not (once.images[0] == FAULTY).all()


def test_first_drawings_are_judged_each_judge_on_its_own(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fixed, config = held
    true = fixed.test.latents[: config.evaluate.pictures]
    approach = drawing(0.3 * true.flip(0), monkeypatch, first=true)
    found = measured(held, approach).metrics
    assert found["scene_accuracy_0_redraws"].value == 1.0 > (found["scene_accuracy"].value or 0.0)
    for score in ("clip_score", "clip_score_gap"):
        once, again = found[f"{score}_0_redraws"].value, found[score].value
        assert once is not None and again is not None and once > again
    for distance in ("fd_efficientnet_lite0", "kid_efficientnet_lite0"):
        first, last = found[f"{distance}_0_redraws"], found[distance]
        assert (first.value or 0.0) < (last.value or 0.0) and first.details["null"] == last.details["null"]

    def lost(*_: Any, **__: Any) -> dict[str, Estimate]:
        raise UserError("no such CLIP")

    monkeypatch.setattr("bench.picture_metrics.clip_metrics", lost)
    found = measured(held, drawing(true.flip(0), monkeypatch, first=true)).metrics
    assert found["clip_score_0_redraws"].reason == "no such CLIP" and found["scene_accuracy_0_redraws"].value == 1.0


def drawing(
    latents: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    first: torch.Tensor | None = None,
    nfe: Sequence[int] = (1,),
) -> Approach:
    """An approach that draws these latents, N C H W, for the prompts of its first set, whatever they ask for. first:
    those before any was drawn again. nfe: evaluations that they take in turn."""
    approach, drawn = made("dual_tower"), [0]

    def generate(prompts: Any, noise_for: Any, sampler: Any) -> Generation:
        start = drawn[0]
        drawn[0] += len(prompts)
        some = torch.arange(start, start + len(prompts)) % len(latents)
        spent = tuple(nfe[place % len(nfe)] for place in some.tolist())
        return Generation(latents=latents[some], nfe=spent, first=None if first is None else first[some])

    monkeypatch.setattr(approach, "generate", generate)
    return approach


def test_unseen_combinations_are_judged_as_they_stand_and_as_they_were_first_drawn(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, _, config = held
    asked = held_out.unseen(config, shared, 6, QUIET)
    assert asked is not None and len(asked) == 6
    approach = drawing(0.3 * asked.latents.flip(0), monkeypatch, first=asked.latents, nfe=(1, 2, 9))
    found = _pairs(approach, Judges(config, shared, QUIET, torch.device("cpu")), 6)
    values = {name: found[name].value for name in found}
    for name in ("scene_accuracy", "right_objects"):
        assert values[f"{name}_pairs_0_redraws"] == 1.0 > (values[f"{name}_pairs"] or 0.0)
    assert values["nfe_pairs"] == 4.0
    once = _pairs(drawing(asked.latents, monkeypatch), Judges(config, shared, QUIET, torch.device("cpu")), 6)
    assert once["scene_accuracy_pairs"].value == 1.0 and not any(name.endswith("_0_redraws") for name in once)


def test_the_true_pictures_are_as_good_as_can_be(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fixed, config = held
    count = config.evaluate.pictures
    found = measured(held, drawing(fixed.test.latents[:count], monkeypatch)).metrics
    assert found["scene_accuracy"].value == found["right_objects"].value == 1.0
    gap, null = found["fd_efficientnet_lite0"], found["null_fd_efficientnet_lite0"]
    assert gap.value is not None and null.value is not None and gap.value < null.value / 3  # the VAE's loss is left
    blurred = found["vae_fd_efficientnet_lite0"]
    assert blurred.value == gap.details["vae"] and blurred.value is not None and blurred.value > null.value
    assert gap.details["rank_deficient"] and gap.details["null"] == null.value
    assert found["precision"].value == found["coverage"].value == 1.0
    score = found["clip_score"]
    assert score.value == pytest.approx(score.details["reference"], abs=3)
    assert score.value is not None and score.value > score.details["chance"]
    copies = found["training_copies_latent"]
    assert copies.value is not None and copies.value <= 0.5


def test_copies_are_looked_for_among_the_pictures_and_not_in_a_sampler_s_noise(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, fixed, config = held
    true = fixed.test.latents[: config.evaluate.pictures]
    noisy = true + 0.15 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0))
    found = measured(held, drawing(noisy, monkeypatch)).metrics["nearest_training_distance_latent"]
    codec, trained = shared.codecs["image"], training(config, shared, QUIET).latents.flatten(1)
    noisy = noisy[: config.evaluate.memorised]
    anew = codec.encode_images(codec.decode_images(noisy))
    near, raw = (torch.cdist(each.flatten(1), trained).min(1).values.numpy() for each in (anew, noisy))
    np.testing.assert_allclose(found.details["per_item"], near, rtol=1e-3)
    assert not np.allclose(near, raw, rtol=1e-2)


def test_real_pictures_are_as_near_to_training_as_the_vae_leaves_them(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded as the drawn ones are, and encoded anew as these are."""
    shared, fixed, config = held
    drawn = draw_pictures(drawing(fixed.test.latents[:12], monkeypatch), fixed.test, 12, config, QUIET)
    found = _memorised(Judges(config, shared, QUIET, torch.device("cpu")), drawn)
    codec, trained = shared.codecs["image"], training(config, shared, QUIET)
    real = codec.decode_images(codec.encode_images(np.asarray(fixed.test.pictures[:12])))
    near = torch.cdist(codec.encode_images(real).flatten(1), trained.latents.flatten(1)).min(1).values
    assert found["nearest_training_distance_latent"].details["real"] == pytest.approx(float(near.mean()), rel=1e-3)
    extractor = open_extractor(config.evaluate.extractor, input_size=config.evaluate.memorised_input)
    _, far = nearest(extract(extractor, real), extract(extractor, np.asarray(trained.pictures)))
    assert found["nearest_training_distance"].details["real"] == pytest.approx(float(far.mean()), rel=1e-3)


def test_where_no_picture_is_finite_the_prompts_still_are_what_they_were(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fixed, config = held
    nothing = torch.full_like(fixed.test.latents[: config.evaluate.pictures], torch.nan)
    found = measured(held, drawing(nothing, monkeypatch)).metrics
    assert found["prompt_overlap"].value is not None
    assert found["training_copies_latent"].reason == "no pictures"


def test_pictures_that_are_not_finite_are_counted(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fixed, config = held
    broken = fixed.test.latents[: config.evaluate.pictures].clone()
    broken[3] = torch.nan
    broken[5, 0, 0, 0] = torch.inf
    told = measured(held, drawing(broken, monkeypatch))
    assert any("2 of 12 pictures were not finite" in note for note in told.notes)
    for name in ("clip_score", "fd_efficientnet_lite0", "precision"):
        assert told.metrics[name].n == 10 and told.metrics[name].details["excluded"] == {"not finite": 2}
    left = [i for i in range(len(broken)) if i not in (3, 5)]
    named = mean_estimate(np.zeros(10), keys=[fixed.test.keys[i] for i in left]).details["items"]
    assert {told.metrics[name].details["items"] for name in ("clip_score", "fd_efficientnet_lite0")} == {named}
    whole = measured(held, drawing(fixed.test.latents[: len(broken)], monkeypatch)).metrics["clip_score"]
    expected = [whole.details["per_item"][i] for i in left]  # by each picture's own caption
    assert told.metrics["clip_score"].details["per_item"] == pytest.approx(expected, rel=1e-4)
    accuracy = told.metrics["scene_accuracy"]
    assert accuracy.n == 12 and sum(accuracy.details["rejected"].values()) >= 2
    right = accuracy.details["per_item"]
    assert right[3] == right[5] == 0 and sum(right) == 10
    assert told.pictures is not None and told.pictures.dtype == np.uint8


def test_one_metric_that_fails_takes_no_other_down(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fixed, config = held
    asked = replace(
        config,
        model=replace(config.model, clip="no/such-model"),
        evaluate=replace(config.evaluate, extractor="nothing", pairs=0, documents=90),
    )
    approach = made("dual_tower")
    start = approach.text_start

    def blind(prompts: Any) -> Any:
        if any(modality == "image" for prompt in prompts for modality, _ in prompt.segments):
            raise NotImplementedError("sees nothing")
        return start(prompts)

    monkeypatch.setattr(approach, "text_start", blind)
    found = measure(approach, fixed, asked, approach.shared.language_model, QUIET)
    reasons = {name: each.reason for name, each in found.metrics.items() if each.value is None}
    assert (
        "no architecture that open_clip has" in reasons["clip_score"]
        and "unknown feature extractor" in reasons["fd_nothing"]
    )
    assert reasons["caption_loss"] == "sees nothing" and "evaluate.pairs is 0" in reasons["scene_accuracy_pairs"]
    assert "unknown feature extractor" in reasons["nearest_training_distance"]
    for name in (
        "validation_loss", "scene_accuracy", "seconds_per_image", "perplexity_retention", "prompt_overlap",
        "training_copies_latent", "nearest_training_distance_latent",
    ):  # fmt: skip
        assert found.metrics[name].value is not None, name
    assert any("documents for test, fewer than evaluate.documents, 90" in note for note in found.notes)


def test_text_that_is_judged_by_another_model_than_writes_it_has_no_retention(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fixed, config = held
    approach = made("full_retraining")
    with torch.no_grad():
        for parameter in approach.parameters():
            parameter.mul_(1.05)
    right = measure(approach, fixed, config, approach.shared.language_model, QUIET).metrics["perplexity_retention"]
    assert right.value is not None and right.value != 1
    base = approach.shared.language_model.transformer
    monkeypatch.setattr(approach, "text_logits", lambda ids: base.logits(base(ids)))  # as it was before training
    found = measure(approach, fixed, config, approach.shared.language_model, QUIET).metrics
    for name in (*LANGUAGE, "perplexity_retention_readmes"):
        assert name not in found or found[name].value is None
    assert found["perplexity_retention"].reason.startswith(
        "FullRetraining.text_logits differs from what text_start and"
    )


def test_our_own_mistake_is_no_missing_metric() -> None:
    def broken() -> Mapping[str, Estimate]:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        Measured().attempt({"a": ("", "lower")}, broken, QUIET)
    found = Measured()
    found.attempt({"a": ("s", "lower"), "b": ("", "")}, lambda: {"a": Estimate.missing("why")}, QUIET)
    assert (found.metrics["a"].unit, found.metrics["a"].better, found.metrics["a"].reason) == ("s", "lower", "why")
    assert found.metrics["b"].reason == "it was not measured"


def test_a_curves_row_leaves_out_what_is_missing() -> None:
    found = row(
        {"a": Estimate(value=1.0, low=0.5, high=2.0), "b": Estimate.missing("no"), "c": Estimate.counted(3, unit="")}
    )
    assert found == {"a": 1.0, "a_low": 0.5, "a_high": 2.0, "c": 3.0}


@pytest.mark.parametrize("capability", ["denoise", "generate", "caption", "complete"])
def test_an_absent_capability_is_the_reason(held: Held, capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    approach = made("dual_tower")
    monkeypatch.setattr(type(approach), "capabilities", frozenset({"denoise", "complete"} - {capability}))
    found = measured(held, approach).metrics
    main = {"denoise": "caption_gap", "generate": "clip_score", "caption": "caption_cider", "complete": "perplexity"}
    assert found[main[capability]].reason == f"the approach declares no '{capability}'"
    other = "validation_loss" if capability != "denoise" else "perplexity"
    assert found[other].value is not None


# ------------------------------------------------------------------------------------------------------ bad input


def folder_of(place: Path, count: int) -> Path:
    """Pictures of every kind in a folder dataset, with one torn file in each split."""
    kinds = ("RGB", "L", "RGBA", "I;16", "P")
    lines = []
    for split in ("train", "validation", "test"):
        (place / split).mkdir(parents=True)
        for number in range(count):
            side = 32 + 9 * number
            pixels = np.random.default_rng(number).integers(0, 256, (side, side + number, 3), dtype=np.uint8)
            kind = kinds[number % len(kinds)]
            image = Image.fromarray(pixels)
            deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
            image = deep if kind == "I;16" else image.convert(kind)
            image.save(place / split / f"{number}.png")
            lines.append(f'{{"file_name": "{split}/{number}.png", "text": "noise of kind {number}"}}')
        if count:
            torn = (place / split / "0.png").read_bytes()
            (place / split / "torn.png").write_bytes(torn[: len(torn) // 2])
            lines.append(f'{{"file_name": "{split}/torn.png", "text": "a torn one"}}')
    (place / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return place


def measured_folder(held: Held, place: Path) -> Measured:
    _, fixed, config = held
    data = DataConfig(name="folder", path=str(place), size=32)
    asked = replace(config, data=data)
    shared = small_shared()
    corpus = TextFile.build(config.text)
    approach = made("full_retraining")
    return measure(approach, hold_out(asked, shared, corpus, QUIET), asked, shared.language_model, QUIET)


def test_pictures_of_every_kind_are_measured_and_what_was_mended_or_left_out_is_counted(
    held: Held, tmp_path: Path
) -> None:
    found = measured_folder(held, folder_of(tmp_path / "kinds", 10))
    notes = " / ".join(found.notes)
    for part in ("1 x corrupt image", "2 x 16-bit grey scaled to 8 bits", "2 x transparency put on white"):
        assert part in notes, notes
    assert "10 pictures for test, fewer than evaluate.pictures, 12" in notes
    assert found.metrics["fd_efficientnet_lite0"].n == 10
    assert "without a known scene" in found.metrics["scene_accuracy"].reason
    assert "holds no combinations back" in found.metrics["scene_accuracy_pairs"].reason
    assert found.metrics["caption_bleu4"].value is not None and found.metrics["clip_score"].value is not None


def test_one_picture_has_numbers_without_intervals(held: Held, tmp_path: Path) -> None:
    found = measured_folder(held, folder_of(tmp_path / "one", 1)).metrics
    assert found["validation_loss"].value is not None and found["validation_loss"].low is None
    assert "too few" in found["fd_efficientnet_lite0"].reason and "too few" in found["precision"].reason
    assert found["clip_score"].reason == "one item has no interval"
    assert found["perplexity"].value is not None


def test_an_empty_folder_is_named_in_a_sentence(held: Held, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    (place / "metadata.jsonl").write_text('{"file_name": "absent.png", "text": "not there"}\n')
    with pytest.raises(UserError, match="no usable picture .*empty"):
        measured_folder(held, place)


@pytest.mark.parametrize("name", APPROACHES)
def test_every_approach_draws_from_the_same_noise_and_is_judged_on_the_same_triples(name: str, held: Held) -> None:
    shared, fixed, config = held
    approach, prompts = made(name).eval(), [Prompt.text(words) for words in ("a red circle", "two squares", "a ring")]
    given: list[Tensor] = []

    class Noting(Sampling):
        """Notes the noise that it is handed."""

        def __call__(self, approach: Approach, condition: Any, noise: Tensor) -> Any:
            given.append(noise)
            return super().__call__(approach, condition, noise)

    sampling = Noting(nfe=1, guidance=1.0)
    draw(approach, prompts, sampling, seed=5, batch=3)
    rows = [torch.randn((4, 8, 8), generator=generator(5, "noise", place, 0)) for place in range(3)]
    assert torch.equal(given[0], torch.stack(rows))

    noised: list[tuple[Tensor, Tensor]] = []
    denoise = approach.denoise

    def noting(x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        noised.append((x_t, t))
        return denoise(x_t, t, condition)

    approach.denoise = noting  # type: ignore[method-assign]
    triple_losses(approach, fixed, [2, 0, 1], prompts, 2)
    some = torch.tensor([2, 0, 1])
    expected = shared.diffusion.add_noise(fixed.validation.latents[some], fixed.noise[some], fixed.times[some])
    assert torch.equal(torch.cat([x_t for x_t, _ in noised]), expected)
    assert torch.equal(torch.cat([t for _, t in noised]), fixed.times[some])


@pytest.mark.parametrize("name", APPROACHES)
@pytest.mark.parametrize("caption_tokens", [4, 12, 40])
def test_what_text_is_judged_by_does_not_depend_on_how_long_captions_may_be(name: str, caption_tokens: int) -> None:
    shared = replace(small_shared(), caption_tokens=caption_tokens)
    entry = APPROACHES[name]
    approach = entry.load()(shared, entry.load_settings()()).eval()
    _check_text(approach, shared.language_model)


def test_a_strip_is_of_all_prompts_however_generate_asks_for_them(held: Held, tmp_path: Path) -> None:
    _, fixed, config = held
    approach = made("dual_tower")

    def one_by_one(prompts: Sequence[Prompt], noise_for: NoiseFor, sampler: Sampler) -> Generation:
        each = [sampler(approach, approach.condition([p]), noise_for([i], 0)).x_0 for i, p in enumerate(prompts)]
        return Generation(latents=torch.cat(each), nfe=(1,) * len(each))

    strip = []
    for folder in (tmp_path / "at once", tmp_path / "one by one"):
        with Image.open(folder / strips(folder, approach, fixed, config)["reverse"]) as image:
            strip.append((np.asarray(image, dtype=int), image.info["Description"]))
        approach.__dict__["generate"] = one_by_one
    assert strip[0][1] == strip[1][1] and np.abs(strip[0][0] - strip[1][0]).max() <= 1
