"""The shared denoiser: what it promises about conditions, masks and batches, its size, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from approaches.shared.denoiser import Denoiser, Prepared, mlp_width
from approaches.shared.kernels import REFERENCE, Kernels, choose
from approaches.shared.patches import PatchEmbedding, Patchify

C, SIZE, PATCH, WIDTH, LAYERS, HEADS, FROM, LAYOUT = 4, 8, 2, 32, 2, 4, 20, 12
B, S, E = 3, 5, 2


def patches(width: int, channels: int = 8) -> PatchEmbedding:
    return PatchEmbedding(Patchify(C, SIZE, PATCH), width, channels)


def make(kernels: Kernels = REFERENCE, *, layout: int | None = LAYOUT, alive: bool = True) -> Denoiser:
    """A denoiser; alive: with every zero-initialised weight drawn, so that nothing is hidden behind a zero."""
    torch.manual_seed(0)
    model = Denoiser(patches(WIDTH), WIDTH, LAYERS, HEADS, FROM, kernels, layout_width=layout)
    if alive:
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.2)
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x_t, t, condition, its mask (the last picture has no valid token), extra tokens, their mask."""
    g = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])
    tokens_mask = torch.tensor([[True, True], [True, False], [False, False]])
    x_t, t = torch.randn(B, C, SIZE, SIZE, generator=g), torch.rand(B, generator=g)
    return x_t, t, torch.randn(B, S, FROM, generator=g), mask, torch.randn(B, E, LAYOUT, generator=g), tokens_mask


def predict(model: Denoiser, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
    """Under a condition as it comes."""
    return model(x_t, t, model.prepare(*condition))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_the_first_prediction_is_zero_and_a_block_is_the_identity() -> None:
    model = make(alive=False)
    assert (predict(model, *inputs()) == 0).all()
    x = torch.randn(B, 16, WIDTH)
    keys, values = model.blocks()[0].condition(torch.randn(B, S, WIDTH))
    assert torch.equal(model.blocks()[0](x, torch.zeros(B, 6, WIDTH), keys, values, None, None), x)


@pytest.mark.parametrize("layout", [None, LAYOUT])
@pytest.mark.parametrize("layers", [1, 3])
def test_parameter_count(layers: int, layout: int | None) -> None:
    width, hidden, token = WIDTH, mlp_width(WIDTH), C * PATCH**2
    model = Denoiser(patches(width, 0), width, layers, HEADS, FROM, REFERENCE, layout_width=layout)
    time = 256 * width + width + width**2 + width
    block = 6 * width + 4 * width**2 + 4 * width**2 + 4 * (width // HEADS) + 3 * width * hidden
    expected = (token * width + width) + time + (8 * width**2 + 8 * width)
    expected += FROM + FROM * width + width + layers * block + (width * token + token)
    expected += 0 if layout is None else layout * width + width
    assert sum(p.numel() for p in model.parameters()) == expected
    assert len(model.blocks()) == layers
    assert {k for k in model.state_dict() if "positions" in k} == set()


def test_masks_and_extra_tokens_matter() -> None:
    model = make()
    x_t, t, condition, *others = inputs()
    every = predict(model, x_t, t, condition, *others)
    for fewer in ([], others[:1]):
        assert not torch.allclose(predict(model, x_t, t, condition, *fewer), every, atol=1e-2)


def test_prepared_conditions_can_be_selected_and_joined() -> None:
    model = make()
    x_t, t, condition, mask, tokens, tokens_mask = inputs()
    whole = model.prepare(condition, mask, tokens, tokens_mask)
    out = model(x_t, t, whole)
    order = torch.tensor([2, 0, 0])
    close(model(x_t[order], t[order], whole.select(order)), out[order])
    short = model.prepare(condition[1:2, :2])  # the same as the mask of item 1, with no extra tokens
    joined = Prepared.cat([whole, short])
    both = model(torch.cat([x_t, x_t[1:2]]), torch.cat([t, t[1:2]]), joined)
    close(both[:B], out)
    close(both[B:], predict(model, x_t[1:2], t[1:2], condition[1:2, :2]))
    plain = Prepared.cat([model.prepare(condition), model.prepare(condition[:, :0])])
    assert plain.tokens is None and plain.mask.sum() == B * S


def test_what_is_masked_has_no_influence_whatever_it_holds() -> None:
    model = make()
    x_t, t, condition, mask, tokens, tokens_mask = inputs()
    out = predict(model, x_t, t, condition, mask, tokens, tokens_mask)
    for junk in (1e4, float("nan")):
        other = condition.masked_fill(~mask.unsqueeze(-1), junk)
        other_tokens = tokens.masked_fill(~tokens_mask.unsqueeze(-1), junk)
        assert torch.equal(predict(model, x_t, t, other, mask, other_tokens, tokens_mask), out)
    for i in range(B):  # and what is not masked has some
        changed = predict(model, x_t, t, condition + mask.unsqueeze(-1), mask, tokens, tokens_mask)
        assert torch.equal(changed[i], out[i]) == (not mask[i].any())
        changed = predict(model, x_t, t, condition, mask, tokens + tokens_mask.unsqueeze(-1), tokens_mask)
        assert torch.equal(changed[i], out[i]) == (not tokens_mask[i].any())


def test_no_condition_at_all_is_a_condition() -> None:
    model = make()
    x_t, t, condition, *_ = inputs()
    nothing = predict(model, x_t, t, condition[:, :0])
    assert torch.isfinite(nothing).all()
    close(predict(model, x_t, t, condition, torch.zeros(B, S, dtype=torch.bool)), nothing)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    model = make()
    every = inputs()
    out = predict(model, *every)
    for i in range(B):
        close(predict(model, *(x[i : i + 1] for x in every)), out[i : i + 1])


def test_time_and_place_matter() -> None:
    model = make()
    x_t, t, condition, mask, *_ = inputs()
    out = predict(model, x_t, t, condition, mask)
    assert not torch.allclose(predict(model, x_t, 1 - t, condition, mask), out, atol=1e-3)
    assert not torch.allclose(predict(model, x_t.roll(PATCH, 3), t, condition, mask).roll(-PATCH, 3), out, atol=1e-3)
    close(
        predict(model, x_t, t, condition.flip(1), mask.flip(1)), out
    )  # a condition is a set: its order is in its vectors


def test_kernels_for_this_machine_agree_with_the_reference() -> None:
    every = inputs()
    results = []
    for kernels in (REFERENCE, choose("cpu")):
        model = make(kernels)
        out = predict(model, *every)
        out.square().mean().backward()
        results.append([out, *(p.grad for p in model.parameters())])
    for mine, reference in zip(results[1], results[0], strict=True):
        assert mine is not None and reference is not None
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("layout", [False, True])
def test_the_residual_stream_is_whole_under_autocast(layout: bool) -> None:
    model, seen = make(choose("cpu"), layout=LAYOUT if layout else None), []
    for block in model.blocks():
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    every = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        predict(model, *(every if layout else every[:4]))
    assert set(seen) == {torch.float32}


def test_blocks_compile_without_a_graph_break() -> None:
    every = inputs()
    model, compiled = make(choose("cpu")), make(choose("cpu"))
    for block in compiled.blocks():
        block.compile(backend="aot_eager", fullgraph=True)
    outs = [predict(m, *every) for m in (model, compiled)]
    close(outs[1], outs[0])
    for out in outs:
        out.square().mean().backward()
    for mine, reference in zip(compiled.parameters(), model.parameters(), strict=True):
        assert mine.grad is not None and reference.grad is not None
        torch.testing.assert_close(mine.grad, reference.grad, atol=1e-5, rtol=1e-3)


def test_gradients_reach_every_parameter_by_the_third_step() -> None:
    model = make(alive=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    every = inputs()
    target = torch.randn(B, C, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    for _ in range(3):
        optimizer.zero_grad()
        (predict(model, *every) - target).square().mean().backward()
        optimizer.step()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_it_learns_four_latents() -> None:
    model = make(choose("cpu"), layout=None, alive=False)
    g = torch.Generator().manual_seed(3)
    x_0, noise = torch.randn(4, C, SIZE, SIZE, generator=g), torch.randn(4, C, SIZE, SIZE, generator=g)
    t, condition = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.randn(4, S, FROM, generator=g)
    x_t = torch.lerp(x_0, noise, t.view(-1, 1, 1, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (predict(model, x_t, t, condition) - (noise - x_0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="heads"):
        Denoiser(patches(32), 32, 1, 5, FROM, REFERENCE)
    model = make()
    x_t, t, condition, mask, tokens, tokens_mask = inputs()
    for wrong in (
        (condition[..., 1:], mask, None, None),
        (condition, mask[:, 1:], None, None),
        (condition, mask, tokens[..., 1:], None),
        (condition, mask, tokens, tokens_mask[:, 1:]),
    ):
        with pytest.raises(ValueError, match="expected"):
            model.prepare(*wrong)


def test_the_size_of_a_condition_does_not_matter() -> None:
    """Hidden states of language models differ a hundredfold in size: only their direction is looked at."""
    model = make()
    x_t, t, condition, mask, *_ = inputs()
    close(predict(model, x_t, t, 300 * condition, mask), predict(model, x_t, t, condition, mask))
