"""What every registered approach promises, in every variant that its settings name: ours, and those of whatever other
package is installed. An approach needs no line here to be tested."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor

from approaches.base import Approach, Batch, Captioned, Loss, Prompt, Shared
from approaches.registry import APPROACHES
from approaches.shared.decoding import score
from approaches.shared.language_model import named_hash
from approaches.shared.prompts import gap
from approaches.shared.randomness import generator
from bench.batches import part
from bench.errors import UserError
from bench.owed import Frozen, check_class, check_groups, check_losses, strays
from bench.own_settings import check_settings
from bench.ranges import Depth
from bench.sampler import Sampling, draw
from tests.approaches.small import samples, small_batch, small_generators, small_shared

STEPS = 5  # layers that begin at zero, one behind another, are reached one a step
LESSONS = 25  # steps on one batch, after which something is learned
ROWS = 4
DESCRIBE = "picture: "  # two tokens, as every preset has it, where the start token is one


def choices(kind: Any) -> tuple[Any, ...]:
    """All values of a field that chooses between a few."""
    if kind is bool:
        return (False, True)
    return get_args(kind) if get_origin(kind) is Literal else ()


def ways() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every approach by name, with each value of each choice that its settings leave; everything else as small as it
    goes."""
    for name in APPROACHES:
        try:
            settings = APPROACHES[name].load_settings()
            check_settings(name, settings)
        except UserError:  # which test_its_settings_can_be_had says, and takes no other approach down
            yield name, {}
            continue
        hints = get_type_hints(settings, include_extras=True)
        fields = [field.name for field in dataclasses.fields(settings)]
        small = {field: 1 for field in fields if hints[field] == Depth and not field.endswith("heads")}
        if built(settings, small) is None:  # they don't fit each other at that size
            small = {}
        seen = []
        for field in fields:
            for value in choices(get_type_hints(settings)[field]):
                way = built(settings, {**small, field: value})
                if way is not None and way not in seen:
                    seen.append(way)
                    yield name, {**small, field: value}
        if not seen:
            yield name, small


def built(settings: Any, values: dict[str, Any]) -> Any:
    """The settings of these values; None where they don't fit each other."""
    try:
        return settings(**values)
    except UserError:
        return None


WAYS = list(ways())


def title(way: tuple[str, dict[str, Any]]) -> str:
    """The approach and the one choice that is its own."""
    name, changes = way
    own = [
        f"{field}={value}" if isinstance(value, bool) else str(value)
        for field, value in changes.items()
        if isinstance(value, bool) or not isinstance(value, int)
    ]
    return "-".join([name, *own])


@dataclass(frozen=True)
class Trained:
    """An approach after its steps, and what was seen on the way."""

    name: str
    changes: dict[str, Any]

    def build(self, seed: int = 0) -> tuple[Shared, Approach]:
        """Anew, from the same sources."""
        entry = APPROACHES[self.name]
        shared = dataclasses.replace(small_shared(seed), describe_prompt=DESCRIBE)
        approach: Approach = entry.load()(shared, entry.load_settings()(**self.changes))
        return shared, approach

    @cached_property
    def outcome(self) -> History | Exception:
        """The steps, once, whichever test asks first: some measure without gradients. Or why there are none."""
        try:
            with torch.enable_grad():
                return History(*self.build())
        except Exception as error:  # whatever a stranger's approach may raise
            return error

    @property
    def history(self) -> History:
        """The steps. Where they can't be taken, one test fails and the others have nothing to look at."""
        if isinstance(self.outcome, Exception):
            pytest.skip("no steps can be taken: see test_steps_can_be_taken")
        return self.outcome

    @property
    def approach(self) -> Approach:
        """The trained one, for measuring."""
        return self.history.approach.eval()

    @cached_property
    def stirred(self) -> Approach:
        """One whose trained parameters are all moved by chance: what a few steps hardly open weighs in its answers."""
        return stir(self.build()[1]).eval()


class History:
    """Steps of AdamW; the state before the last; which parameters ever had a gradient."""

    def __init__(self, shared: Shared, approach: Approach) -> None:
        self.shared, self.approach = shared, approach
        answers(shared, approach)  # whatever is kept of these must not be told after the steps
        self.frozen, self.kept = approach.frozen_hash(), Frozen(approach)
        self.text = text_logits(approach)
        self.optimizer = optimizer(approach)
        self.terms: list[dict[str, Loss]] = []
        self.reached: set[str] = set()
        self.stray: set[str] = set()
        for index in range(STEPS):
            if index == STEPS - 1:
                self.before = {name: value.clone() for name, value in approach.trained_state().items()}
                self.moments = copy.deepcopy(self.optimizer.state_dict())
            self.terms.append(step(shared, approach, self.optimizer, index))
            for name, parameter in approach.named_parameters():
                if parameter.grad is not None and bool(parameter.grad.any()):
                    (self.reached if parameter.requires_grad else self.stray).add(name)


def stir(approach: Approach) -> Approach:
    """Move every trained parameter, the same way in every process."""
    with torch.no_grad():
        for name, value in approach.trained_state().items():
            value.add_(0.05 * torch.randn(value.shape, generator=generator(0, f"stir/{name}")))
    return approach


@torch.no_grad()
def answers(shared: Shared, approach: Approach) -> dict[str, Tensor]:
    """By capability: a prediction under prompts, and the first words after a picture and after words."""
    x_t, t = pictures(shared), torch.full((ROWS,), 0.5)
    told, approach = prompts(), approach.eval()
    asked = {
        "denoise": lambda: approach.denoise(x_t, t, approach.condition(told)),
        "caption": lambda: approach.text_start([Prompt.image(x) for x in x_t])[0],
        "complete": lambda: approach.text_start(told)[0],
    }
    return {name: ask() for name, ask in asked.items() if name in approach.capabilities}


def optimizer(approach: Approach) -> torch.optim.Optimizer:
    """AdamW over the approach's own groups."""
    groups = [{"params": list(group.parameters), "lr": 1e-3 * group.ratio} for group in approach.parameter_groups()]
    return torch.optim.AdamW(groups)


def step(shared: Shared, approach: Approach, optimizer: torch.optim.Optimizer, index: int) -> dict[str, Loss]:
    """One step on that step's batch."""
    optimizer.zero_grad()
    approach.train()
    terms = approach.losses(small_batch(shared, ROWS, index), small_generators(shared.seed, index))
    check_losses(approach, terms)
    assert not (found := strays(approach, terms)), f"losses would train what is no parameter, of shapes {found}"
    whole = torch.stack([term.weight * term.sum / term.count for term in terms.values()]).sum()
    try:
        whole.backward()
    except RuntimeError as error:
        error.add_note("A second time through a graph: was something kept from the last batch?")
        raise
    optimizer.step()
    return {name: dataclasses.replace(term, sum=term.sum.detach()) for name, term in terms.items()}


def prompts(count: int = ROWS) -> list[Prompt]:
    """Captions of different lengths, with their scenes."""
    return [Prompt.text(sample.caption, sample.scene) for sample in samples(100, count)]


def pictures(shared: Shared) -> Tensor:
    """Clean latents."""
    return small_batch(shared, ROWS, 9).draw.latents


def text() -> Tensor:
    """Rows of full length, B T."""
    return torch.arange(2 * 17).view(2, 17) % 11 + 50


def text_logits(approach: Approach) -> Tensor | None:
    """What the whole model says of text alone; None of an approach that reads none."""
    with torch.no_grad():
        return approach.eval().text_logits(text()) if "complete" in approach.capabilities else None


def needs(approach: Approach, *capabilities: str) -> None:
    """Nothing is asked of an approach that it doesn't say it can."""
    if missing := set(capabilities) - approach.capabilities:
        pytest.skip(f"the approach has no {', '.join(sorted(missing))}")


@pytest.fixture(scope="module", params=WAYS, ids=[title(each) for each in WAYS])
def way(request: pytest.FixtureRequest) -> Trained:
    """One approach in one variant."""
    return Trained(*request.param)


def test_every_choice_of_every_approach_is_tried() -> None:
    assert {name for name, _ in WAYS} == set(APPROACHES)
    assert {(name, str(value)) for name, changes in WAYS for value in changes.values()} >= {
        ("full_retraining", "lora"),
        ("dual_tower", "gated"),
        ("projection", "last_hidden"),
        ("modular", "oracle"),
    }


def test_what_it_declares_its_class_has(way: Trained) -> None:
    check_class(way.name, APPROACHES[way.name].load())


def test_its_settings_can_be_had(way: Trained) -> None:
    check_settings(way.name, APPROACHES[way.name].load_settings())


def test_steps_can_be_taken(way: Trained) -> None:
    if isinstance(way.outcome, Exception):
        raise way.outcome


def test_a_block_is_a_module_of_its_own(way: Trained) -> None:
    """Blocks are compiled and sharded one by one: there are some, they are the approach's, and none shares a parameter
    with another."""
    blocks, owner = way.approach.blocks(), dict[int, int]()
    names = {id(parameter): name for name, parameter in way.approach.named_parameters()}
    assert blocks, "blocks() is empty"
    for place, block in enumerate(blocks):
        for parameter in block.parameters():
            assert id(parameter) in names, f"block {place} has a parameter that the approach has not"
            other = owner.setdefault(id(parameter), place)
            assert other == place, f"{names[id(parameter)]} is in blocks {other} and {place}"


def test_losses_are_finite_and_of_something(way: Trained) -> None:
    draws = "denoise" in way.approach.capabilities
    for terms in way.history.terms:
        assert terms and ("diffusion" in terms or not draws)
        for name, term in terms.items():
            assert float(term.count) > 0 and term.weight > 0, name
            assert term.sum.ndim == 0 and bool(torch.isfinite(term.sum)), name
        told = "the term 'diffusion' is a sum over rows at their levels of noise, and its count how many there are"
        assert not draws or float(terms["diffusion"].count) == ROWS, told


def test_counts_told_ahead_are_those_of_the_losses(way: Trained) -> None:
    """In a batch, and in a part of one, which has fewer words."""
    whole = small_batch(way.history.shared, ROWS, 0, levels=2)
    for batch in (whole, part(whole, 1, 2)):
        losses = way.approach.losses(batch, small_generators(way.history.shared.seed, 0))
        told = {name: float(count) for name, count in way.approach.counts(batch).items()}
        if told or way.approach.__module__.startswith("approaches."):  # another's may tell none
            assert told == {name: float(loss.count) for name, loss in losses.items()}
        if "denoise" in way.approach.capabilities:
            assert float(losses["diffusion"].count) == len(batch.times)


def test_a_batch_may_have_nothing_to_describe(way: Trained) -> None:
    """As with train.describe_share 0: pictures are drawn as they are with it, and no caption counts."""
    whole, draws = small_batch(way.history.shared, ROWS, 0), small_generators(way.history.shared.seed, 0)
    described = whole.describe
    nobody = dataclasses.replace(
        described,
        **{name: getattr(described, name)[:0] for name in ("latents", "tokens", "mask", "captions", "scenes")},
        pictures=None if described.pictures is None else described.pictures[:0],
    )
    with_them, without = (
        way.approach.losses(dataclasses.replace(whole, describe=each), draws) for each in (described, nobody)
    )
    for name in without:
        assert bool(torch.isfinite(without[name].sum)), name
    assert "caption" not in without or float(without["caption"].count) == float(without["caption"].sum.detach()) == 0
    if "denoise" in way.approach.capabilities:
        torch.testing.assert_close(without["diffusion"].sum, with_them["diffusion"].sum, rtol=1e-5, atol=1e-5)


def test_gradients_reach_all_that_is_trained_and_nothing_else(way: Trained) -> None:
    approach, history = way.approach, way.history
    trained = {name for name, parameter in approach.named_parameters() if parameter.requires_grad}
    assert not (left := trained - history.reached), f"trained, and no loss has a gradient for it: {sorted(left)}"
    assert not history.stray, f"not trained, and a loss has a gradient for it: {sorted(history.stray)}"
    check_groups(approach)
    assert set(approach.trained_state()) == trained


def test_frozen_stays_frozen(way: Trained) -> None:
    approach, history = way.approach, way.history
    changed = history.kept.changed(approach)
    assert not changed and approach.frozen_hash() == history.frozen, f"frozen, and changed by training: {changed}"
    shared = history.shared.language_model.transformer.state_dict()
    untouched = named_hash(small_shared().language_model.transformer.state_dict())
    assert named_hash(shared) == untouched, "the language model that all share has changed: train a copy of it"
    if any(parameter.requires_grad for parameter in approach.language_model.parameters()):
        return
    if "complete" in approach.capabilities:
        with torch.enable_grad():
            if approach.text_logits(text()).requires_grad:
                return  # text passes through something that is trained beside a frozen language model
    base = small_shared().language_model
    own = "language_model is another than the one that all share: text is measured against model.lm's"
    assert approach.language_model.weights_hash == base.weights_hash, own
    before, after = history.text, text_logits(approach)
    if before is not None and after is not None:
        assert torch.equal(before, after), "nothing that text passes through is trained, and its logits have changed"
        with torch.no_grad():
            assert torch.equal(after, base.transformer.logits(base.transformer(text())))


@torch.no_grad()
def test_shapes(way: Trained) -> None:
    approach, shared = way.approach, way.history.shared
    x_t, vocabulary = pictures(shared), shared.language_model.transformer.config.vocabulary
    if "denoise" in approach.capabilities:
        condition = approach.condition(prompts())
        assert len(condition) == ROWS
        assert approach.denoise(x_t, torch.full((ROWS,), 0.5), condition).shape == x_t.shape
    if "generate" in approach.capabilities:
        sampling = Sampling(nfe=2, guidance=2.0)
        drawn = draw(approach, prompts(), sampling, seed=0, batch=ROWS)
        assert drawn.latents.shape == x_t.shape and bool(torch.isfinite(drawn.latents).all())
    starts = [[Prompt.image(latent) for latent in x_t]] if "caption" in approach.capabilities else []
    starts += [prompts()] if "complete" in approach.capabilities else []
    for start in starts:
        logits, state = approach.text_start(start)
        assert logits.shape == (ROWS, vocabulary)
        logits, _ = approach.text_step(logits.argmax(-1, keepdim=True), state)
        assert logits.shape == (ROWS, 1, vocabulary), "text_step gives logits after each token, B T V"
    if "complete" in approach.capabilities:
        assert approach.text_logits(text()).shape == (*text().shape, vocabulary)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(way: Trained) -> None:
    approach, shared = way.approach, way.history.shared
    x_t, t = pictures(shared), torch.linspace(0.1, 0.9, ROWS)
    if "denoise" in approach.capabilities:
        together = approach.denoise(x_t, t, approach.condition(prompts()))
        for row, prompt in enumerate(prompts()):
            alone = approach.denoise(x_t[row : row + 1], t[row : row + 1], approach.condition([prompt]))
            torch.testing.assert_close(alone, together[row : row + 1], atol=1e-4, rtol=1e-4)
    if "caption" in approach.capabilities:
        described = [Prompt.image(latent) for latent in x_t]
        together = approach.text_start(described)[0]
        for row, prompt in enumerate(described):
            alone = approach.text_start([prompt])[0]
            torch.testing.assert_close(alone, together[row : row + 1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_conditions_are_selected_and_joined(way: Trained) -> None:
    approach, shared = way.approach, way.history.shared
    needs(approach, "denoise")
    x_t, t = pictures(shared), torch.linspace(0.1, 0.9, ROWS)
    condition = approach.condition(prompts())
    expected = approach.denoise(x_t, t, condition)
    order = torch.tensor([2, 0, 2])
    picked = condition.select(order)
    assert len(picked) == len(order)
    torch.testing.assert_close(approach.denoise(x_t[order], t[order], picked), expected[order], atol=1e-4, rtol=1e-4)
    parts = [approach.condition(prompts()[:1]), approach.condition(prompts()[1:])]
    joined = type(condition).cat(parts)
    assert len(joined) == ROWS
    torch.testing.assert_close(approach.denoise(x_t, t, joined), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_levels_of_noise_are_rows_that_share_a_reading(way: Trained) -> None:
    shared, approach = way.history.shared, way.approach
    needs(approach, "denoise")
    both = small_batch(shared, ROWS, 5, levels=2)
    found = approach.losses(both, small_generators(shared.seed, 5))["diffusion"]
    alone = [
        approach.losses(
            dataclasses.replace(both, times=both.times[level::2], noise=both.noise[level::2]),
            small_generators(shared.seed, 5),
        )["diffusion"]
        for level in range(2)
    ]
    assert found.count == 2 * ROWS == sum(int(each.count) for each in alone)
    assert float(found.sum) == pytest.approx(sum(float(each.sum) for each in alone), rel=1e-4)


def test_the_sums_of_parts_are_the_whole_s(way: Trained) -> None:
    """Ranks and accumulation add up: a part's rows are its own, and what is random is drawn for the whole batch."""
    shared, approach = way.history.shared, way.approach
    batch = small_batch(shared, ROWS, 6)
    with torch.no_grad():
        whole, *parts = (
            approach.losses(each, small_generators(shared.seed, 6))
            for each in (batch, part(batch, 0, 2), part(batch, 1, 2))
        )
    for name, term in whole.items():
        assert float(term.sum) == pytest.approx(sum(float(each[name].sum) for each in parts), rel=1e-4), name
        assert float(term.count) == sum(float(each[name].count) for each in parts), name


@torch.no_grad()
def test_drawing_is_judged_as_it_is_learned(way: Trained) -> None:
    """The diffusion term is that of `condition` and `denoise`, by which pictures are drawn, on the same pictures, times
    and noise. An approach that draws something at random for its training may condition it otherwise: of that one what
    `condition` and `denoise` say must get better as it learns."""
    shared = way.history.shared
    needs(way.approach, "denoise")
    batch, asked = small_batch(shared, ROWS, 7), list[str]()

    def noted(purpose: str) -> torch.Generator:
        asked.append(purpose)
        return small_generators(shared.seed, 7)(purpose)

    learned = float(way.stirred.losses(batch, noted)["diffusion"].sum)
    if not asked:
        why = "the term 'diffusion' is not what condition and denoise say of the same pictures"
        assert learned == pytest.approx(judged_drawing(shared, way.stirred, batch), rel=1e-4), why
        return
    shared, approach = way.build()
    before, taken = judged_drawing(shared, approach, batch), optimizer(approach)
    with torch.enable_grad():
        for _ in range(LESSONS):
            step(shared, approach, taken, 7)
    after = judged_drawing(shared, approach, batch)
    assert after < 0.97 * before, "losses trains something else than what condition and denoise draw by"


def judged_drawing(shared: Shared, approach: Approach, batch: Batch) -> float:
    """The summed diffusion loss of a batch's drawn rows by what draws pictures."""
    approach.eval()
    words = ["" if empty else caption for empty, caption in zip(batch.empty, batch.draw.captions, strict=True)]
    latents, diffusion = batch.draw.latents, shared.diffusion
    x_t = diffusion.add_noise(latents, batch.noise, batch.times)
    given = approach.denoise(x_t, batch.times, approach.condition(approach.prompts(words, batch.draw.scenes)))
    return float(diffusion.loss(given, diffusion.target(latents, batch.noise, batch.times)).sum())


@torch.no_grad()
def test_losses_are_the_same_in_training_and_in_evaluation(way: Trained) -> None:
    """What is random comes from the generators: so a loss is a function of batch and generators, in either mode."""
    shared, approach = way.history.shared, way.stirred
    batch = small_batch(shared, ROWS, 7)
    given = [approach.train(mode).losses(batch, small_generators(shared.seed, 7)) for mode in (True, False)]
    for name, term in given[0].items():
        why = f"the term '{name}' differs between train() and eval(): what is evaluated is not what is trained"
        assert float(term.sum) == pytest.approx(float(given[1][name].sum), rel=1e-4), why


@torch.no_grad()
def test_a_caption_that_is_left_out_is_not_heard(way: Trained) -> None:
    """Guidance needs a picture model that has learned without captions: `drawn_prompt` leaves them out."""
    needs(way.approach, "generate")
    shared, approach = way.history.shared, way.stirred
    batch = small_batch(shared, ROWS, 7)
    draw = batch.draw
    other = dataclasses.replace(
        draw, tokens=draw.tokens.flip(0), mask=draw.mask.flip(0), captions=draw.captions[::-1], scenes=draw.scenes[::-1]
    )

    def loss(empty: bool, rows: Captioned) -> float:
        given = dataclasses.replace(batch, draw=rows, empty=torch.full((ROWS,), empty))
        terms = approach.losses(given, small_generators(shared.seed, 7))
        of_drawing = [term for name, term in terms.items() if name not in ("caption", "replay")]
        return float(terms["diffusion"].sum if "diffusion" in terms else sum(term.sum for term in of_drawing))

    said = "rows whose caption batch.empty leaves out are drawn from it all the same: see Batch.drawn_prompt"
    assert loss(True, draw) == pytest.approx(loss(True, other), rel=1e-5), said
    assert loss(False, draw) != pytest.approx(loss(False, other), rel=1e-5), "captions have no part in the loss"


@torch.no_grad()
def test_captions_are_judged_as_they_are_learned(way: Trained) -> None:
    """The term `caption`, where there is one, is that of `text_start` and `text_step`, by which captions are written,
    in nats, summed over the same words."""
    shared, approach = way.history.shared, way.stirred
    needs(approach, "caption")
    batch = small_batch(shared, ROWS, 8)
    terms = approach.losses(batch, small_generators(shared.seed, 8))
    if "caption" not in terms:
        pytest.skip("the approach has no term 'caption'")
    space = gap(shared.language_model, DESCRIBE)
    tokens, mask = shared.tokenise([space + caption for caption in batch.describe.captions], end=True)
    targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100)
    start = approach.text_start([Prompt.image(latent) for latent in batch.describe.latents])
    judged = score(start, approach.text_step, targets)
    told = "the term 'caption' is not what text_start and text_step say of the same captions"
    assert float(terms["caption"].sum) == pytest.approx(float(judged.sum()), rel=1e-4), told


@torch.no_grad()
def test_prompts_decide(way: Trained) -> None:
    """Nobody is deaf or blind: other words draw otherwise, and other pictures are described otherwise."""
    approach, x_t = way.stirred, pictures(way.history.shared)
    if "denoise" in approach.capabilities:
        t = torch.full((ROWS,), 0.5)
        one, other = (approach.denoise(x_t, t, approach.condition(told)) for told in (prompts(), prompts()[::-1]))
        assert not torch.equal(one, other), "what is drawn does not depend on the prompt"
    if "generate" in approach.capabilities:
        sampling = Sampling(nfe=2, guidance=2.0)
        one, other = (
            draw(approach, told, sampling, seed=0, batch=ROWS).latents for told in (prompts(), prompts()[::-1])
        )
        assert not torch.equal(one, other), "what generate draws does not depend on the prompt"
    if "caption" in approach.capabilities:
        one, other = (approach.text_start([Prompt.image(x) for x in seen])[0] for seen in (x_t, x_t.flip(0)))
        assert not torch.equal(one, other), "what is written does not depend on the picture"


@torch.no_grad()
def test_a_drawing_is_its_seeds_and_its_prompts(way: Trained) -> None:
    """All chance comes from the noise that a picture is given: neither from elsewhere, nor from who is drawn beside."""
    needs(way.approach, "generate")
    drawn = []
    for elsewhere, batch in ((0, ROWS), (1, ROWS), (1, 1)):
        torch.manual_seed(elsewhere)
        drawn.append(draw(way.stirred, prompts(), Sampling(nfe=2, guidance=2.0), seed=0, batch=batch).latents)
    assert torch.equal(drawn[0], drawn[1]), "the same drawing again is another: its chance is not noise_for's"
    torch.testing.assert_close(drawn[2], drawn[0], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_what_is_kept_of_a_training_is_enough_to_measure(way: Trained) -> None:
    """Trained parameters in a new approach give the same, bit for bit: statistics that ran along would be lost."""
    shared, again = way.build()
    for name, value in again.trained_state().items():
        value.copy_(way.approach.trained_state()[name])
    given = answers(shared, again)
    for name, told in answers(shared, way.approach).items():
        why = "state is kept outside the trained parameters: of earlier batches, or of answers before the last step"
        assert torch.equal(told, given[name]), f"{name}: {why}"


def test_what_is_kept_of_a_training_is_enough_to_go_on(way: Trained) -> None:
    history = way.history
    shared, approach = way.build()
    for name, parameter in approach.named_parameters():
        if name in history.before:
            parameter.data.copy_(history.before[name])
    again = optimizer(approach)
    again.load_state_dict(copy.deepcopy(history.moments))
    step(shared, approach, again, STEPS - 1)
    ended = history.approach.trained_state()
    parted = [name for name, value in approach.trained_state().items() if not torch.equal(value, ended[name])]
    why = "the same step from the same state gave others: state is kept elsewhere, or chance is not the generators'"
    assert not parted, f"{why}: {parted}"


def test_the_seed_decides_and_nothing_else_does(way: Trained) -> None:
    torch.manual_seed(1)
    shared, one = way.build(0)
    torch.manual_seed(2)
    _, two = way.build(0)
    _, other = way.build(1)
    states = [approach.trained_state() for approach in (one, two, other)]
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())
    drawn = []
    for approach, noise in ((one, 3), (two, 4)):
        torch.manual_seed(noise)
        drawn.append(stir(approach).losses(small_batch(shared, ROWS), small_generators()))
    parted = [name for name, term in drawn[0].items() if not torch.equal(term.sum, drawn[1][name].sum)]
    assert not parted, f"of torch's global generator, in place of generators(purpose): {parted}"


@torch.no_grad()
def test_text_is_judged_as_it_is_written(way: Trained) -> None:
    """`text_logits`, by which retention is measured, says of words what `text_start` and `text_step` say of them."""
    approach, model = way.approach, way.history.shared.language_model
    needs(approach, "complete")
    words, more = "a red circle", text()[:1]
    read = torch.tensor([[model.start_id, *model.encode(words)]])
    logits, state = approach.text_start([Prompt.text(words)])
    written = torch.cat([logits[:, None], approach.text_step(more, state)[0]], 1)
    judged = approach.text_logits(torch.cat([read, more], 1))[:, read.shape[1] - 1 :]
    torch.testing.assert_close(written, judged, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_cached_text_is_that_read_at_once(way: Trained) -> None:
    approach = way.approach
    needs(approach, "complete")
    tokens = text()
    logits, state = approach.text_start([Prompt.text("a red")])
    whole = approach.text_step(tokens[:1], state)[0]
    parts, part = [], state
    for index in range(tokens.shape[1]):
        logits, part = approach.text_step(tokens[:1, index : index + 1], part)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-3, rtol=1e-3)
