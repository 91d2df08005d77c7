"""Muon turns momentum into matrices without a preferred direction, keeps to matrices, and goes on from a checkpoint."""

import copy

import pytest
import torch
from torch import nn

from bench.muon import ROOT_MEAN_SQUARE, Muon, _iterated, _polynomial, muon_and_adamw, orthogonalised


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_singular_values_come_to_about_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrices = random(3, *shape)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    turned = orthogonalised(matrices)
    assert turned.shape == matrices.shape
    inside = u.mT @ turned @ vh.mT  # diagonal where the singular vectors are the same
    values = inside.diagonal(dim1=-2, dim2=-1)
    # the least of a square one's may be near 0, which five iterations do not lift to 1
    assert float(values.min()) > 0.3 and float(values.median()) > 0.6 and float(values.max()) < 1.3
    assert float((inside - torch.diag_embed(values)).abs().max()) < 1e-3


@pytest.mark.parametrize("shape", [(16, 48), (32, 32), (24, 200)])
@pytest.mark.parametrize("rank", [3, 16])
def test_products_of_the_shorter_sides_are_the_iteration(shape: tuple[int, int], rank: int) -> None:
    low = random(2, shape[0], rank) @ random(2, rank, shape[1], seed=1) + 1e-4 * random(2, *shape, seed=2)
    x = low / low.norm(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(_polynomial(x @ x.mT) @ x, _iterated(x), rtol=0, atol=1e-3)


def test_as_torch_does_it_up_to_bfloat16() -> None:
    from torch.optim import Muon as Torchs

    ours, theirs = (nn.Parameter(random(24, 40)) for _ in range(2))
    mine = Muon([{"params": [ours], "lr": 1e-2, "weight_decay": 0.1}])
    other = Torchs([theirs], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for parameter, optimizer in ((ours, mine), (theirs, other)):
            parameter.grad = random(24, 40, seed=step + 1)
            optimizer.step()
    moved = ours.detach() - random(24, 40)
    assert float((ours - theirs).norm() / moved.norm()) < 0.02


def test_a_step_has_adamws_size_whatever_the_gradients_is() -> None:
    for size in (1e-4, 1e4):
        parameter = nn.Parameter(torch.zeros(64, 64))
        parameter.grad = size * random(64, 64)
        Muon([{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}]).step()
        assert float(parameter.detach().square().mean().sqrt()) == pytest.approx(0.1 * ROOT_MEAN_SQUARE, rel=0.2)


def test_matrices_without_a_gradient_or_with_a_gradient_of_zeros_stay() -> None:
    left, still = nn.Parameter(random(4, 8)), nn.Parameter(random(4, 8))
    still.grad = torch.zeros(4, 8)
    before = left.detach().clone(), still.detach().clone()
    Muon([{"params": [left, still], "lr": 0.1, "weight_decay": 0.0}]).step()
    assert torch.equal(left, before[0]) and torch.equal(still, before[1])


def test_it_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"for matrices, and was given \(3,\)"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))]}])


def test_it_goes_on_from_its_state() -> None:
    one, two = (nn.Parameter(random(6, 10)) for _ in range(2))
    first = Muon([{"params": [one], "lr": 0.1}])
    one.grad = random(6, 10, seed=1)
    first.step()
    second = Muon([{"params": [two], "lr": 0.1}])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    two.data.copy_(one.data)
    for parameter, optimizer in ((one, first), (two, second)):
        parameter.grad = random(6, 10, seed=2)
        optimizer.step()
    assert torch.equal(one, two)


def test_every_parameter_has_one_optimizer_and_the_rate_and_decay_of_its_group() -> None:
    one, two, vector = nn.Parameter(random(4, 8)), nn.Parameter(random(4, 8)), nn.Parameter(random(8))
    adamw, muon = muon_and_adamw([([one, vector], 1e-2), ([two], 3e-3)], [one, two], 0.1, betas=(0.9, 0.95))
    assert [id(p) for group in adamw.param_groups for p in group["params"]] == [id(vector)]
    turned = [(id(p), group["lr"], group["weight_decay"]) for group in muon.param_groups for p in group["params"]]
    assert turned == [(id(one), 1e-2, 0.1), (id(two), 3e-3, 0.1)]
