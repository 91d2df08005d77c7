"""A rehearsal says in one sentence which method answers what the interface does not; of an approach that keeps it, it
leaves no trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from approaches.base import Approach, Generation, Loss
from approaches.registry import APPROACHES
from bench import rehearsal, stages
from bench.errors import UserError
from bench.imagined import imagining
from bench.owed import strays
from bench.rehearsal import losses_without_values, rehearse
from tests.approaches.small import small_batch, small_generators, small_shared
from tests.bench.test_training import CONFIG, batches_of, changed, models

ROWS = 6


def made(name: str = "dual_tower") -> Approach:
    entry = APPROACHES[name]
    approach: Approach = entry.load()(small_shared(), entry.load_settings()())
    return approach


def rehearsed(approach: Approach) -> None:
    rehearse(approach, small_batch(approach.shared, ROWS, 0, levels=2), small_generators())


@pytest.mark.parametrize("name", list(APPROACHES))
def test_a_rehearsal_leaves_no_trace(name: str) -> None:
    approach = made(name).eval()
    before = {key: value.clone() for key, value in approach.state_dict().items()}
    drawn = torch.random.get_rng_state()
    rehearsed(approach)
    assert not approach.training and all(parameter.grad is None for parameter in approach.parameters())
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in approach.state_dict().items())


class Bare:
    """A condition that can't be joined."""

    def __len__(self) -> int:
        return 2

    def select(self, index: Any) -> Bare:
        """See Approach.condition."""
        return self


def counted_as_a_mean(right: Callable[..., dict[str, Loss]]) -> Callable[..., dict[str, Loss]]:
    def losses(*given: Any) -> dict[str, Loss]:
        found = right(*given)
        return {**found, "diffusion": dataclasses.replace(found["diffusion"], count=1.0)}

    return losses


def with_a_sum(change: Callable[[Any], Any]) -> Callable[..., Callable[..., dict[str, Any]]]:
    """Losses whose diffusion term has another sum."""

    def changed(right: Callable[..., dict[str, Loss]]) -> Callable[..., dict[str, Any]]:
        def losses(*given: Any) -> dict[str, Any]:
            return {name: dataclasses.replace(loss, sum=change(loss.sum)) for name, loss in right(*given).items()}

        return losses

    return changed


def with_a_term(**values: Any) -> Callable[..., Callable[..., dict[str, Any]]]:
    """Losses whose diffusion term has another count or weight."""

    def changed(right: Callable[..., dict[str, Loss]]) -> Callable[..., dict[str, Any]]:
        def losses(*given: Any) -> dict[str, Any]:
            found = right(*given)
            return {**found, "diffusion": dataclasses.replace(found["diffusion"], **values)}

        return losses

    return changed


def answering(change: Callable[[Any], Any]) -> Callable[..., Callable[..., Any]]:
    return lambda right: lambda *given: change(right(*given))


def one_short(generation: Generation) -> Generation:
    return dataclasses.replace(generation, latents=generation.latents[:-1])


FAULTS: list[tuple[str, Callable[..., Callable[..., Any]], str]] = [
    ("losses", answering(lambda _: torch.zeros(())), "losses gives Tensor, expected an approaches.base.Loss"),
    (
        "losses",
        with_a_sum(lambda x: float(x.detach())),
        "losses gives a float as sum of 'diffusion'",
    ),
    ("losses", with_a_sum(lambda x: x.expand(3)), r"losses gives a sum of shape \(3,\) for 'diffusion', expected one"),
    ("losses", with_a_sum(lambda x: x.detach()), "losses gives no term with a gradient"),
    ("losses", with_a_term(count="12"), "losses gives a str as count of 'diffusion'"),
    ("losses", with_a_term(weight=-1.0), "losses gives 'diffusion' the weight -1.0, expected one from 0"),
    ("losses", counted_as_a_mean, "losses counts 1 for 'diffusion', expected 12, the rows that are drawn"),
    ("condition", answering(lambda _: {"rows": 2}), "condition gives a dict, which has no select"),
    ("condition", answering(lambda _: Bare()), "condition gives a Bare, which has no cat"),
    ("condition", answering(lambda c: c.select(torch.tensor([0]))), "condition gives 1 rows for 2 prompts"),
    ("denoise", answering(lambda _: None), "denoise gives a NoneType, expected a tensor of shape"),
    ("denoise", answering(lambda x: x[:, :1]), r"denoise gives a tensor of shape \(2, 1, 8, 8\), expected \(2, 4, 8"),
    ("generate", answering(lambda g: g.latents), "generate gives a Tensor, expected an approaches.base.Generation"),
    ("generate", answering(one_short), r"generate gives latents of shape \(0, 4, 8, 8\), expected \(1, 4, 8, 8\)"),
    ("text_start", answering(lambda x: x[0]), r"text_start gives a Tensor, expected \(logits, state\)"),
    ("text_start", answering(lambda x: (x[0][:, None], x[1])), r"text_start gives a tensor of shape \(2, 1, "),
    ("text_step", answering(lambda x: (x[0][:, 0], x[1])), r"text_step gives a tensor of shape \(2, \d+\), expected"),
    ("text_logits", answering(lambda x: x[:, -1]), r"text_logits gives a tensor of shape \(1, \d+\), expected \(1, "),
]


@pytest.mark.parametrize(("method", "fault", "sentence"), FAULTS)
def test_the_method_at_fault_is_named(method: str, fault: Callable[..., Any], sentence: str) -> None:
    approach = made()
    setattr(approach, method, fault(getattr(approach, method)))
    with pytest.raises(UserError, match=rf"^DualTower\.{sentence}"):
        rehearsed(approach)


@pytest.mark.parametrize(
    ("fault", "sentence"), [(fault, sentence) for method, fault, sentence in FAULTS if method == "losses"]
)
def test_what_losses_owe_is_asked_without_values_as_well(fault: Callable[..., Any], sentence: str) -> None:
    """As on a GPU, which may not hold a step that is not compiled."""
    approach, sentence = made(), sentence.replace("gives Tensor", "gives FakeTensor")
    approach.losses = fault(approach.losses)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=rf"^DualTower\.{sentence}"):
        losses_without_values(approach, small_batch(approach.shared, ROWS, 0, levels=2), small_generators())


@pytest.mark.parametrize("name", list(APPROACHES))
def test_a_layer_out_of_sight_is_found_without_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    approach = made(name)
    batch, right = small_batch(approach.shared, ROWS, 0, levels=2), approach.losses
    seen: list[Any] = []

    def looked(*given: Any) -> list[tuple[int, ...]]:
        seen.append(strays(*given))
        return seen[-1]

    monkeypatch.setattr(rehearsal, "strays", looked)
    losses_without_values(approach, batch, small_generators())
    assert seen == [[]]  # it got so far: nothing of ours needs a value
    hidden = nn.Parameter(torch.ones(3))

    def losses(*given: Any) -> dict[str, Loss]:
        return {term: dataclasses.replace(loss, sum=loss.sum + hidden.sum()) for term, loss in right(*given).items()}

    monkeypatch.setattr(approach, "losses", losses)
    with pytest.raises(UserError, match=r"would train a tensor of shape \(3,\) that is none of its parameters"):
        losses_without_values(approach, batch, small_generators())


def test_a_weight_below_zero_is_refused_as_a_tensor_too() -> None:
    approach = made()
    approach.losses = with_a_term(weight=torch.tensor(-1.0))(approach.losses)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="gives 'diffusion' the weight -1.0, expected one from 0"):
        rehearsed(approach)


def test_what_only_values_tell_is_left_to_training(monkeypatch: pytest.MonkeyPatch) -> None:
    approach = made()
    batch, right = small_batch(approach.shared, ROWS, 0, levels=2), approach.losses

    def counting(*given: Any) -> dict[str, Loss]:
        found = right(*given)
        counted = torch.ones(len(batch.times)).sum()
        return {**found, "diffusion": dataclasses.replace(found["diffusion"], count=counted)}

    def looking(*given: Any) -> dict[str, Loss]:
        if not (batch.draw.mask.sum() > 1).any():
            raise UserError("no caption has a word")
        return right(*given)

    for losses in (counting, looking):
        monkeypatch.setattr(approach, "losses", losses)
        rehearsed(approach)
        losses_without_values(approach, batch, small_generators())


def test_what_has_no_values_has_pinned_memory() -> None:
    with imagining():
        assert torch.zeros(3).pin_memory().shape == (3,)  # as on the way to a GPU


def test_a_step_s_operations_are_the_whole_batch_s_however_many_parts_it_has() -> None:
    entry = APPROACHES["dual_tower"]
    approach = entry.load()(models(), entry.load_settings()())
    whole = stages._step_flops(approach, batches_of(CONFIG))
    assert whole > 0
    for parts in (2, 4):
        assert stages._step_flops(approach, batches_of(changed(accumulation=parts))) == whole


def test_a_layer_that_is_in_a_list_is_no_layer_of_the_approach() -> None:
    approach = made()
    hidden = [nn.Linear(4, 4, bias=False)]
    right = approach.losses

    def losses(*given: Any) -> dict[str, Loss]:
        found = right(*given)
        return {
            **found,
            "diffusion": dataclasses.replace(found["diffusion"], sum=found["diffusion"].sum + hidden[0].weight.sum()),
        }

    setattr(approach, "losses", losses)  # noqa: B010  (a method for an instance)
    with pytest.raises(UserError, match=r"would train a tensor of shape \(4, 4\) that is none of its parameters"):
        rehearsed(approach)
    hidden[0].requires_grad_(False)
    rehearsed(approach)
