"""Connectors: what a mask hides has no influence, sizes, order, and that each can learn what it must carry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from approaches.shared.connectors import Connector, ConnectorShape, Kind, LatentEncoder, QFormer, build_connector
from approaches.shared.denoiser import mlp_width
from approaches.shared.kernels import REFERENCE, choose
from approaches.shared.patches import Patchify

B, S, IN, OUT, W, DEPTH, HEADS, Q = 3, 5, 20, 12, 16, 2, 4, 7
KINDS: tuple[Kind, ...] = ("qformer", "encoder", "mlp", "linear")
MASK = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])


def make(kind: Kind, depth: int = DEPTH, backend: str = "eager") -> Connector:
    torch.manual_seed(0)
    kernels = REFERENCE if backend == "eager" else choose("cpu")
    return build_connector(ConnectorShape(kind=kind, width=W, depth=depth, heads=HEADS, queries=Q), IN, OUT, kernels)


def states(seed: int = 1) -> Tensor:
    return torch.randn(B, S, IN, generator=torch.Generator().manual_seed(seed))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_masks(kind: Kind) -> None:
    vectors, mask = make(kind)(states(), MASK)
    assert vectors.shape == (B, Q if kind == "qformer" else S, OUT)
    assert torch.equal(mask, torch.ones(B, Q, dtype=torch.bool) if kind == "qformer" else MASK)
    assert torch.isfinite(vectors).all()  # the last row has no state at all
    with pytest.raises(ValueError, match=r"expected \(B, S\)"):
        make(kind)(states(), MASK[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_hidden_state_has_no_influence_whatever_it_holds(kind: Kind) -> None:
    connector, x = make(kind), states()
    vectors, mask = connector(x, MASK)
    spoilt = x.masked_fill(~MASK.unsqueeze(-1), torch.nan)
    again, _ = connector(spoilt, MASK)
    assert torch.equal(vectors[mask], again[mask])
    # the second row alone, without its padding
    alone, _ = connector(x[1:2, :2])
    torch.testing.assert_close(alone[0], vectors[1][mask[1]], atol=1e-6, rtol=1e-5)
    # and a state that counts does have some
    x[0, 1] += 1
    assert not torch.allclose(connector(x, MASK)[0][0], vectors[0])


@pytest.mark.parametrize("kind", KINDS)
def test_backends_agree(kind: Kind) -> None:
    kernels, reference = make(kind, backend="auto"), make(kind)
    torch.testing.assert_close(kernels(states(), MASK)[0], reference(states(), MASK)[0], atol=1e-5, rtol=1e-5)


def test_a_qformer_reads_a_set_and_the_others_a_sequence() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    x = states()
    torch.testing.assert_close(make("qformer")(x)[0], make("qformer")(x[:, order])[0], atol=1e-5, rtol=1e-5)
    for kind in KINDS[1:]:
        torch.testing.assert_close(make(kind)(x)[0][:, order], make(kind)(x[:, order])[0], atol=1e-6, rtol=1e-5)


def test_a_linear_connector_is_linear_in_normalised_states_and_an_mlp_is_not() -> None:
    x = states()
    unit = x / x.square().mean(-1, keepdim=True).sqrt()
    for kind in KINDS[1:]:
        connector = make(kind)
        both = torch.stack([unit[0], -unit[0]])  # equal norms, so that the normalisation is the same
        there, back = connector(both)[0]
        assert torch.allclose(there, -back, atol=1e-5) is (kind == "linear")


def test_queries_of_a_qformer_see_each_other() -> None:
    connector = make("qformer")
    assert isinstance(connector, QFormer)
    before, _ = connector(states())
    with torch.no_grad():
        connector.queries[0] += 1
    assert ((connector(states())[0] - before).abs().amax((0, 2)) > 1e-4).all()


@pytest.mark.parametrize("depth", [1, 3])
def test_parameter_counts(depth: int) -> None:
    block = 3 * W + 4 * W * W + 2 * W * W + 2 * IN * W + 3 * W * mlp_width(W)
    assert count(make("qformer", depth)) == IN + Q * W + depth * block + W + W * OUT + OUT
    assert len(make("qformer", depth).blocks()) == depth
    hidden = IN * W + W + (depth - 1) * (W * W + W)
    assert count(make("mlp", depth)) == IN + hidden + W * OUT + OUT
    assert count(make("linear", depth)) == IN + IN * OUT + OUT


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_and_the_states(kind: Kind) -> None:
    connector, x = make(kind), states().requires_grad_()
    connector(x, MASK)[0].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in connector.parameters())
    assert x.grad is not None
    assert x.grad[MASK].any(-1).all() and not x.grad[~MASK].any()


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="16 doesn't divide into 3 heads"):
        ConnectorShape(kind="qformer", width=16, depth=1, heads=3, queries=2)


def test_the_encoder_knows_where_a_patch_stands() -> None:
    torch.manual_seed(0)
    cut = Patchify(4, 8, 2)
    encoder = LatentEncoder(cut, W, 1, HEADS, REFERENCE)
    same = torch.ones(1, 4, 8, 8)
    features = encoder(same)[0]
    assert features.shape == (16, W)
    distances = torch.cdist(features, features) + 1e9 * torch.eye(16)
    assert distances.min() > 1e-2  # the same patch everywhere, a feature of its own everywhere
    # bidirectional: the last patch changes the first one's feature
    other = same.clone()
    other[..., -1, -1] = -1
    assert not torch.allclose(encoder(other)[0, 0], features[0])
    block = 2 * W + 4 * W * W + 3 * W * mlp_width(W)
    assert count(encoder) == cut.width * W + W + block
    assert len(encoder.blocks()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_to_carry_its_states(kind: Kind) -> None:
    connector = make(kind)
    optimizer = torch.optim.Adam(connector.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(2)
    mix = torch.randn(IN, OUT, generator=draw) / IN**0.5
    errors = []
    for _ in range(100):
        x = torch.randn(32, S, IN, generator=draw)
        x = x / x.square().mean(-1, keepdim=True).sqrt()
        wanted = (x @ mix).mean(1)  # of the set: every kind can give it, on the average of its vectors
        error = (connector(x)[0].mean(1) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert sum(errors[-10:]) < 0.25 * 10 * float(wanted.square().mean())
