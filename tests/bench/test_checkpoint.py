"""Checkpoints as files: whole or absent, no pickle, bit by bit, and refused where they don't fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from bench import checkpoint
from bench.errors import UserError

META = {"key": "k", "step": 3, "frozen_hash": "f", "curve": [{"step": 1.0, "loss": 0.1 + 0.2}]}


def state(kind: Any = torch.optim.AdamW, width: int = 3, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module with tied weights, and an optimizer that has taken steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
    model[2].weight = model[0].weight
    optimizer = kind(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(5, width)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def live(model: nn.Module) -> dict[str, Tensor]:
    return model.state_dict()


def write(path: Path, **changes: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, optimizer = state(**changes)
    average = {name: value + 1 for name, value in live(model).items()}
    checkpoint.save(path, weights=live(model), average=average, optimizers=[optimizer], meta=META)
    return model, optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.Rprop])
def test_a_state_comes_back_bit_by_bit(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "c.safetensors"
    model, optimizer = write(path, kind=kind)
    other, again = state(kind=kind, seed=1)
    average = {name: torch.zeros_like(value) for name, value in live(other).items()}
    meta = checkpoint.load(path, weights=live(other), average=average, optimizers=[again], key="k", frozen_hash="f")
    assert meta == META
    for name, value in live(model).items():
        assert torch.equal(live(other)[name], value) and torch.equal(average[name], value + 1)
    assert other[0].weight is other[2].weight  # type: ignore[index]
    for each, rebuilt in zip(optimizer.state.values(), again.state.values(), strict=True):
        assert each.keys() == rebuilt.keys()
        for slot, value in each.items():
            assert torch.equal(torch.as_tensor(rebuilt[slot]), torch.as_tensor(value)), slot


def test_training_goes_on_bit_by_bit_where_weights_lie_otherwise_in_memory(tmp_path: Path) -> None:
    """torch's fused AdamW walks weights and moments through memory side by side, whatever their strides."""

    def begun() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model: Any = nn.Conv2d(3, 4, 3)
        model.to(memory_format=torch.channels_last)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        pictures = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(pictures).square().mean().backward()
        optimizer.step()

    path, (model, optimizer) = tmp_path / "c.safetensors", begun()
    for number in range(2):
        step(model, optimizer, number)
    checkpoint.save(path, weights=live(model), average={}, optimizers=[optimizer], meta=META)
    other, again = begun()
    checkpoint.load(path, weights=live(other), average={}, optimizers=[again], key="k", frozen_hash="f")
    for number in range(2, 4):
        step(model, optimizer, number)
        step(other, again, number)
    assert all(torch.equal(value, live(other)[name]) for name, value in live(model).items())


def test_what_an_optimizer_keeps_as_plain_numbers_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    (model, first), (other, second) = state(), state(seed=1)
    first.state[model[0].weight]["turns"] = 7  # type: ignore[index]
    checkpoint.save(path, weights=live(model), average={}, optimizers=[first], meta=META)
    checkpoint.load(path, weights=live(other), average={}, optimizers=[second], key="k", frozen_hash="f")
    assert second.state[other[0].weight]["turns"] == 7  # type: ignore[index]


def test_the_file_is_safetensors_with_plain_json_beside(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write(path)
    assert list(tmp_path.iterdir()) == [path] and b"pickle" not in path.read_bytes()
    with safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"meta", "scalars"}
        assert {name.split("/")[0] for name in file.keys()} == {"model", "ema", "optimizer0"}  # noqa: SIM118


@pytest.mark.parametrize(
    ("changes", "loading", "words"),
    [
        ({}, {"key": "other"}, "belongs to another training"),
        ({}, {"frozen_hash": "g"}, "trained on frozen weights f, these are g"),
        ({"width": 4}, {}, r"model/0\.bias is of shape \[4\], this one's is of shape \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(
    tmp_path: Path, changes: dict[str, Any], loading: dict[str, Any], words: str
) -> None:
    path = tmp_path / "c.safetensors"
    write(path, **changes)
    model, optimizer = state(seed=1)
    own = {name: value.clone() for name, value in live(model).items()}
    with pytest.raises(UserError, match=words):
        checkpoint.load(
            path, weights=live(model), average={}, optimizers=[optimizer], **{"key": "k", "frozen_hash": "f", **loading}
        )
    assert all(torch.equal(value, own[name]) for name, value in live(model).items())


def test_slots_of_other_parameters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    model, _ = write(path)
    turned = torch.optim.AdamW(list(model.parameters())[::-1], lr=0.1)
    own = {name: value.clone() for name, value in live(model).items()}
    with pytest.raises(UserError, match="optimizer0/0/exp_avg fits no parameter"):
        checkpoint.load(path, weights=live(model), average={}, optimizers=[turned], key="k", frozen_hash="f")
    assert all(torch.equal(value, own[name]) for name, value in live(model).items())


def test_slots_of_more_parameters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    model, _ = write(path)
    fewer = torch.optim.AdamW(list(model.parameters())[:1], lr=0.1)
    with pytest.raises(UserError, match=r"optimizer0/\d/exp_avg(_sq)? fits no parameter"):
        checkpoint.load(path, weights=live(model), average={}, optimizers=[fewer], key="k", frozen_hash="f")


def test_a_foreign_file_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "c.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is no checkpoint of ours"):
        checkpoint.load(path, weights={}, average={}, optimizers=[], key="k")
