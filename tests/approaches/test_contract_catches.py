"""The contract can fail: an approach with one fault each, and the test that names it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from approaches.base import Approach, Batch, Generation, Generators, Loss, NoiseFor, Prompt, Sampler, Shared
from approaches.projection import Projection
from approaches.registry import APPROACHES
from tests.approaches import test_contract as contract
from tests.approaches.small import small_shared

CHANGES = {**next(changes for name, changes in contract.WAYS if name == "projection")}


class GlobalChance(Projection):
    """Draws from torch's own generator."""

    def diffusion_errors(self, *inputs: Any, **options: Any) -> Tensor:
        return super().diffusion_errors(*inputs, **options) * (1 + 0.01 * torch.randn(()))


class OtherInTraining(Projection):
    """Sees less noise while it is trained than when it is judged."""

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        return super().losses(replace(batch, noise=0.5 * batch.noise) if self.training else batch, generators)


class Talkative(Projection):
    """Never leaves a caption out, and so learns nothing that guidance could start from."""

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        return super().losses(replace(batch, empty=torch.zeros_like(batch.empty)), generators)


class OtherTarget(Projection):
    """Learns the noise, and is asked for the flow, behind a draw that it does not use."""

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        torch.rand(1, generator=generators("whole/unused"))
        return super().losses(batch, generators)

    def diffusion_errors(self, batch: Batch, condition: Any, denoise: Callable[..., Tensor] | None = None) -> Tensor:
        diffusion = self.shared.diffusion
        x_t = diffusion.add_noise(batch.draw.latents, batch.noise, batch.times)
        return diffusion.loss(-self.denoise(x_t, batch.times, condition), batch.noise)


class DeafGenerate(Projection):
    """Hears prompts, but for when it draws."""

    def generate(self, prompts: Sequence[Prompt], noise_for: NoiseFor, sampler: Sampler) -> Generation:
        return super().generate([Prompt.text("")] * len(prompts), noise_for, sampler)


class DeafCondition(Projection):
    """Hears no prompt."""

    def condition(self, prompts: Sequence[Prompt]) -> Any:
        return super().condition([Prompt.text("")] * len(prompts))


class Remembering(Projection):
    """Keeps what it read of a prompt, whatever it learns later."""

    def condition(self, prompts: Sequence[Prompt]) -> Any:
        kept = self.__dict__.setdefault("kept", {})
        words = tuple(prompt.words for prompt in prompts)
        return kept.setdefault(words, super().condition(prompts))


class Thawed(Projection):
    """Trains the language model that all share."""

    def __init__(self, shared: Shared, settings: Any) -> None:
        super().__init__(shared, settings)
        self.language_model.requires_grad_(True)


class MeanForSum(Projection):
    """Gives a mean where a sum and its count are asked for."""

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        terms = super().losses(batch, generators)
        return {name: replace(term, sum=term.sum / term.count, count=1.0) for name, term in terms.items()}


class SeesPadding(Projection):
    """Reads what stands behind a caption's end as well."""

    def _condition(self, parts: Any) -> Any:
        return super()._condition(
            [(kind, (given[0], torch.ones_like(given[1])) if kind == "text" else given) for kind, given in parts]
        )


class Idle(Projection):
    """Has a layer that no loss reaches."""

    def __init__(self, shared: Shared, settings: Any) -> None:
        super().__init__(shared, settings)
        self.idle = torch.nn.Linear(3, 3, bias=False)


class OwnText(Projection):
    """Writes by another language model than it is judged by."""

    def text_logits(self, tokens: Tensor) -> Tensor:
        other = copy.deepcopy(self.transformer)
        with torch.no_grad():
            other.norm.weight.mul_(1.5)
        return other.logits(other(tokens))


@dataclass(frozen=True)
class Faulty(contract.Trained):
    """The contract's way, of a class that no registry knows."""

    kind: type[Approach] = Projection

    def build(self, seed: int = 0) -> tuple[Shared, Approach]:
        shared = replace(small_shared(seed), describe_prompt=contract.DESCRIBE)
        return shared, self.kind(shared, APPROACHES["projection"].load_settings()(**self.changes))


FAULTS: list[tuple[type[Approach], Callable[[Any], None], str]] = [
    (GlobalChance, contract.test_the_seed_decides_and_nothing_else_does, "torch's global generator"),
    (OtherInTraining, contract.test_losses_are_the_same_in_training_and_in_evaluation, "between train"),
    (Talkative, contract.test_a_caption_that_is_left_out_is_not_heard, "batch.empty leaves out"),
    (Talkative, contract.test_drawing_is_judged_as_it_is_learned, "not what condition and denoise say"),
    (OtherTarget, contract.test_drawing_is_judged_as_it_is_learned, "something else than what condition and denoise"),
    (DeafGenerate, contract.test_prompts_decide, "what generate draws"),
    (DeafCondition, contract.test_prompts_decide, "what is drawn does not depend"),
    (Remembering, contract.test_what_is_kept_of_a_training_is_enough_to_measure, "outside the trained parameters"),
    (Thawed, contract.test_frozen_stays_frozen, "train a copy of it"),
    (MeanForSum, contract.test_losses_are_finite_and_of_something, "its count how many"),
    (SeesPadding, contract.test_a_row_does_not_depend_on_its_batch, "not close"),
    (Idle, contract.test_gradients_reach_all_that_is_trained_and_nothing_else, "idle.weight"),
    (OwnText, contract.test_text_is_judged_as_it_is_written, "not close"),
]


@pytest.mark.parametrize(("kind", "test", "sentence"), FAULTS, ids=[f"{k.__name__}-{t.__name__}" for k, t, _ in FAULTS])
def test_a_fault_is_named(kind: type[Approach], test: Callable[[Any], None], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        test(Faulty("projection", CHANGES, kind))


def test_without_a_fault_there_is_none() -> None:
    way = Faulty("projection", CHANGES)
    for test in dict.fromkeys(test for _, test, _ in FAULTS):
        test(way)
