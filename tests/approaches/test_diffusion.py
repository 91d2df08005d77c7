"""Diffusion against closed forms: on Gaussian data the best denoiser and the probability-flow ODE are known exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from torch import Tensor

from approaches.shared.diffusion import SAMPLERS, Diffusion, guided
from approaches.shared.randomness import generator
from approaches.shared.solvers import noise_schedule
from bench.errors import UserError

MEAN, SPREAD = 0.7, 0.4
PAIRS = [(prediction, sampler) for prediction, fitting in SAMPLERS.items() for sampler in fitting]
PREDICTIONS = list(SAMPLERS)


def make(prediction: str = "flow", sampler: str | None = None, **fields: Any) -> Diffusion:
    return Diffusion(prediction=prediction, sampler=sampler or SAMPLERS[prediction][0], **fields)  # type: ignore[arg-type]


def pair(batch: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = generator(seed, "test diffusion")
    return torch.randn(batch, 4, 5, 3, generator=g), torch.randn(batch, 4, 5, 3, generator=g)


def best_denoiser(diffusion: Diffusion) -> Callable[[Tensor, Tensor], Tensor]:
    """The optimal prediction where every element of x_0 is drawn from N(MEAN, SPREAD^2)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        shape = (-1, *[1] * (x_t.dim() - 1))
        alpha, sigma = (level.double().reshape(shape) for level in diffusion.levels(t))
        away = (x_t.double() - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
        x_0, noise = MEAN + alpha * SPREAD**2 * away, sigma * away
        target = {"flow": noise - x_0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x_0}
        return target[diffusion.prediction].float()

    return denoise


def exact_state(diffusion: Diffusion, noise: Tensor, t: float) -> Tensor:
    """Where the probability-flow ODE that starts at `noise`, t = 1, is at `t`: the distance from the mean scales with
    the marginal's standard deviation."""
    (alpha, sigma), (alpha_1, sigma_1) = (
        [float(level) for level in diffusion.levels(torch.tensor(time))] for time in (t, 1.0)
    )
    scale = math.hypot(alpha * SPREAD, sigma) / math.hypot(alpha_1 * SPREAD, sigma_1)
    return (alpha * MEAN + scale * (noise.double() - alpha_1 * MEAN)).float()


# ------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_gives_back_x_0(prediction):
    diffusion = make(prediction)
    x_0, noise = pair()
    for time in (0.0, 0.001, 0.25, 0.5, 0.9, 1.0):
        t = torch.full((len(x_0),), time)
        x_t = diffusion.add_noise(x_0, noise, t)
        back = diffusion.predict_x_0(x_t, diffusion.target(x_0, noise, t), t)
        # v at t = 1 has alpha = 2^-12, the only level at which rounding is not the whole error
        torch.testing.assert_close(back, x_0, atol=1e-5, rtol=1e-5)


def test_flow_closed_form():
    x_0, noise = pair()
    t = torch.linspace(0, 1, len(x_0))
    expected = torch.stack([(1 - s) * x + s * n for x, n, s in zip(x_0, noise, t, strict=True)])
    torch.testing.assert_close(make().add_noise(x_0, noise, t), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(make().target(x_0, noise, t), noise - x_0, atol=0, rtol=0)


def test_flow_noising_equals_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler()
    x_0, noise = pair()
    steps = scheduler.timesteps[torch.tensor([0, 1, 250, 500, 998, 999])]
    expected = scheduler.scale_noise(x_0, steps, noise)
    torch.testing.assert_close(make().add_noise(x_0, noise, steps / 1000), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_discrete_noising_equals_diffusers(prediction):
    scheduler = DDIMScheduler(**noise_schedule(prediction, 1000))  # type: ignore[arg-type]
    x_0, noise = pair()
    k = torch.tensor([0, 1, 250, 500, 900, 998])
    t = (k + 1) / 1000
    diffusion = make(prediction)
    torch.testing.assert_close(diffusion.add_noise(x_0, noise, t), scheduler.add_noise(x_0, noise, k), atol=0, rtol=0)
    if prediction == "v_prediction":
        expected = scheduler.get_velocity(x_0, noise, k)
        torch.testing.assert_close(diffusion.target(x_0, noise, t), expected, atol=0, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_levels_keep_variance_order_and_ends(prediction):
    diffusion = make(prediction)
    alpha, sigma = diffusion.levels(torch.linspace(0, 1, 1001))
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    assert alpha[0] == 1 and sigma[0] == 0
    if prediction == "flow":
        torch.testing.assert_close(alpha + sigma, torch.ones(1001))
    else:
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1001))
    assert alpha[-1] <= {"flow": 0.0, "v_prediction": 2.0**-12, "epsilon": 0.07}[prediction]


def test_logit_normal_times_have_the_right_moments():
    t = make().times(200_000, generator(1, "times")).double()
    z = torch.logit(t)
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1
    assert ((t > 0) & (t < 1)).all()


def test_uniform_times_have_the_right_moments():
    t = make(time_sampling="uniform").times(200_000, generator(1, "times")).double()
    assert abs(t.mean() - 0.5) < 0.005 and abs(t.var() - 1 / 12) < 0.002
    assert t.min() > 0 and t.max() <= 1


def test_shift_closed_form():
    plain = make().times(1000, generator(2, "times"))
    moved = make(shift=3.0).times(1000, generator(2, "times"))
    torch.testing.assert_close(moved, 3 * plain / (1 + 2 * plain))
    # the same as adding log(shift) to the logit
    torch.testing.assert_close(torch.logit(moved), torch.logit(plain) + math.log(3), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_discrete_times_are_whole(prediction):
    t = make(prediction, time_sampling="uniform", train_times=50).times(20_000, generator(3, "times"))
    counts = torch.bincount((t * 50).round().long(), minlength=51)
    torch.testing.assert_close(t * 50, (t * 50).round())
    assert counts[0] == 0 and (counts[1:] > 300).all()


def test_draws_are_functions_of_the_generator():
    x_0, _ = pair()
    for diffusion in (make(), make(time_sampling="uniform"), make("epsilon")):
        first, second, other = (diffusion.times(8, generator(seed, "times")) for seed in (0, 0, 1))
        assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(make().noise_like(x_0, generator(0, "n")), make().noise_like(x_0, generator(0, "n")))


def test_noise_with_a_generator_each_does_not_depend_on_the_batch():
    x_0, _ = pair()
    whole = make().noise_like(x_0, [generator(0, "noise", i) for i in range(6)])
    part = make().noise_like(x_0[2:4], [generator(0, "noise", i) for i in (2, 3)])
    assert torch.equal(whole[2:4], part)
    with pytest.raises(ValueError, match="2 generators for 6"):
        make().noise_like(x_0, [generator(0, "noise", i) for i in range(2)])


def test_loss_is_each_samples_mean():
    a, b = pair()
    loss = make().loss(a, b)
    assert loss.shape == (6,)
    expected = [((a[i] - b[i]) ** 2).mean() for i in range(6)]
    torch.testing.assert_close(loss, torch.stack(expected))
    torch.testing.assert_close(make().loss(a[1:3], b[1:3]), loss[1:3])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_float32_under_bfloat16(prediction):
    diffusion = make(prediction)
    x_0, noise = (x.bfloat16() for x in pair())
    t = torch.linspace(0.1, 1, 6)
    expected = {
        "x_t": diffusion.add_noise(x_0.float(), noise.float(), t),
        "target": diffusion.target(x_0.float(), noise.float(), t),
        "x_0": diffusion.predict_x_0(x_0.float(), noise.float(), t),
    }
    got = {
        "x_t": diffusion.add_noise(x_0, noise, t),
        "target": diffusion.target(x_0, noise, t),
        "x_0": diffusion.predict_x_0(x_0, noise, t),
    }
    for name, value in got.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name]), name
    assert diffusion.loss(x_0, noise).dtype == torch.float32

    def half(x_t: Tensor, t: Tensor) -> Tensor:
        assert x_t.dtype == t.dtype == torch.float32
        return (0.5 * x_t).bfloat16()

    sampled = diffusion.sample(half, noise, nfe=4, keep=(0.5,))
    assert sampled.x_0.dtype == torch.float32 and sampled.trajectory is not None
    assert sampled.trajectory.x_t.dtype == sampled.trajectory.x_0.dtype == torch.float32
    # a state kept in bfloat16 on the way would show as values that bfloat16 can hold
    assert not torch.equal(sampled.x_0, sampled.x_0.bfloat16().float())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_forward_trajectory(prediction):
    diffusion = make(prediction)
    x_0, noise = pair()
    times = (0.0, 0.3, 1.0)
    path = diffusion.forward_trajectory(x_0, noise, times)
    assert path.shape == (3, *x_0.shape)
    assert torch.equal(path[0], x_0)
    for state, t in zip(path, times, strict=True):
        assert torch.equal(state, diffusion.add_noise(x_0, noise, torch.full((6,), t)))


# ------------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize(("prediction", "sampler"), PAIRS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_exactly_nfe_calls(prediction, sampler, shift):
    diffusion = make(prediction, sampler, shift=shift if prediction == "flow" else 1.0)
    denoise = best_denoiser(diffusion)
    noise = torch.zeros(2, 1)
    for nfe in (*range(1, 20), 25, 30, 33, 50):
        seen: list[Tensor] = []

        def counted(x_t: Tensor, t: Tensor, seen: list[Tensor] = seen) -> Tensor:
            assert not torch.is_grad_enabled()
            seen.append(t)
            return denoise(x_t, t)

        sampled = diffusion.sample(counted, noise, nfe=nfe)
        assert len(seen) == sampled.nfe == nfe
        assert sampled.trajectory is None and torch.isfinite(sampled.x_0).all()
        times = torch.stack(seen)
        assert times.shape == (nfe, 2) and (times[0] == 1).all()
        assert (times.diff(dim=0) <= 0).all() and (times > 0).all()


CONVERGENCE = [
    # prediction, sampler, shift, time, order
    ("flow", "euler", 1.0, 0.0, 1),
    ("flow", "euler", 3.0, 0.5, 1),
    ("flow", "heun", 1.0, 0.0, 2),
    ("flow", "heun", 3.0, 0.5, 2),
    ("flow", "dpmpp", 1.0, 0.5, 2),
    ("flow", "dpmpp", 3.0, 0.5, 2),
    ("epsilon", "ddim", 1.0, 0.5, 1),
    ("epsilon", "dpmpp", 1.0, 0.5, 2),
    # the last step, to zero noise, is of order one: see the note in solvers
    ("epsilon", "dpmpp", 1.0, 0.0, 1),
    ("v_prediction", "ddim", 1.0, 0.5, 1),
    ("v_prediction", "dpmpp", 1.0, 0.5, 2),
]


@pytest.mark.parametrize(("prediction", "sampler", "shift", "time", "order"), CONVERGENCE)
def test_convergence_order_to_the_exact_solution(prediction, sampler, shift, time, order):
    # 1024 times, so that halving a step is exact
    diffusion = make(prediction, sampler, shift=shift, train_times=1024)
    noise = torch.linspace(-2, 2, 9).reshape(9, 1)
    errors = []
    for nfe in (32, 64, 128):
        sampled = diffusion.sample(best_denoiser(diffusion), noise, nfe=nfe, keep=(time,))
        assert sampled.trajectory is not None
        (visited,) = sampled.trajectory.times
        assert abs(visited - time) < 0.06
        errors.append(float((sampled.trajectory.x_t[0] - exact_state(diffusion, noise, visited)).abs().max()))
    orders = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert np.mean(orders) == pytest.approx(order, abs=0.2), f"errors {errors}, orders {orders}"


@pytest.mark.parametrize(("prediction", "sampler"), PAIRS)
def test_samples_have_the_datas_moments(prediction, sampler):
    diffusion = make(prediction, sampler)
    noise = torch.randn(20_000, 1, generator=generator(5, "moments"))
    x_0 = diffusion.sample(best_denoiser(diffusion), noise, nfe=200).x_0
    # an epsilon schedule starts from N(0, 1) where its own x_1 has mean 0.07 x_0
    assert float(x_0.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(x_0.std()) == pytest.approx(SPREAD, abs=0.03)


def test_one_euler_step_closed_form():
    x_0, noise = pair()
    for shift in (1.0, 3.0):
        got = make(shift=shift).sample(lambda x_t, t: noise - x_0, noise, nfe=1).x_0
        torch.testing.assert_close(got, x_0, atol=1e-6, rtol=1e-6)


def test_straight_paths_are_exact_whatever_the_sampler():
    x_0, noise = pair()
    for sampler in SAMPLERS["flow"]:
        for nfe in (1, 2, 5, 8):
            got = make(sampler=sampler, shift=2.0).sample(lambda x_t, t: noise - x_0, noise, nfe=nfe).x_0
            torch.testing.assert_close(got, x_0, atol=5e-6, rtol=1e-5)


def loop(
    scheduler: Any, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, time: Callable[[Any], float]
) -> Tensor:
    x_t = noise
    for timestep in scheduler.timesteps:
        t = torch.full((len(noise),), time(timestep))
        x_t = scheduler.step(denoise(x_t, t), timestep, x_t, return_dict=False)[0]
    return x_t


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_equals_diffusers(shift):
    diffusion, (_, noise) = make(shift=shift), pair()
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 7, 7).tolist())
    expected = loop(scheduler, best_denoiser(diffusion), noise, lambda k: float(k) / 1000)
    got = diffusion.sample(best_denoiser(diffusion), noise, nfe=7).x_0
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_heun_equals_diffusers():
    # 7 train times and 7 steps make diffusers' own grid the uniform one
    diffusion, (_, noise) = make(sampler="heun"), pair()
    scheduler: Any = FlowMatchHeunDiscreteScheduler(num_train_timesteps=7)
    scheduler.set_timesteps(7)
    scheduler.set_begin_index(0)
    expected = loop(scheduler, best_denoiser(diffusion), noise, lambda k: float(k) / 7)
    got = diffusion.sample(best_denoiser(diffusion), noise, nfe=13).x_0
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("nfe", [8, 20, 30])
def test_dpmpp_equals_diffusers(prediction, nfe):
    diffusion, (_, noise) = make(prediction, "dpmpp"), pair()
    scheduler: Any = DPMSolverMultistepScheduler(  # type: ignore[no-untyped-call]
        **noise_schedule(prediction, 1000), prediction_type=prediction, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(nfe)
    expected = loop(scheduler, best_denoiser(diffusion), noise, lambda k: (int(k) + 1) / 1000)
    got = diffusion.sample(best_denoiser(diffusion), noise, nfe=nfe).x_0
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("prediction", "atol"), [("epsilon", 1e-5), ("v_prediction", 5e-4)])
def test_ddim_equals_diffusers_where_its_own_grid_is_right(prediction, atol):
    # DDIMScheduler's zero-SNR start is exactly 0, DPM-Solver's 2^-24: alpha differs by 2^-12 in the first step of v
    diffusion, (_, noise) = make(prediction, "ddim"), pair()
    scheduler: Any = DDIMScheduler(
        **noise_schedule(prediction, 1000),  # type: ignore[arg-type]
        prediction_type=prediction,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(20)
    expected = loop(scheduler, best_denoiser(diffusion), noise, lambda k: (int(k) + 1) / 1000)
    got = diffusion.sample(best_denoiser(diffusion), noise, nfe=20).x_0
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def test_ddim_is_right_where_diffusers_leaves_its_grid():
    # 7 does not divide 1000: DDIMScheduler ends at k = 0 with noise left; ours is between 5 and 10 steps' errors
    diffusion, noise = make("epsilon", "ddim"), torch.linspace(-2, 2, 9).reshape(9, 1)
    errors = {
        nfe: float(
            (diffusion.sample(best_denoiser(diffusion), noise, nfe=nfe).x_0 - exact_state(diffusion, noise, 0.0))
            .abs()
            .max()
        )
        for nfe in (5, 7, 10)
    }
    assert errors[10] < errors[7] < errors[5]


@pytest.mark.parametrize(("prediction", "sampler"), PAIRS)
def test_a_sample_does_not_depend_on_its_batch_or_on_earlier_sampling(prediction, sampler):
    diffusion = make(prediction, sampler)
    denoise = best_denoiser(diffusion)
    _, noise = pair()
    whole = diffusion.sample(denoise, noise, nfe=9).x_0
    diffusion.sample(denoise, noise, nfe=4)
    torch.testing.assert_close(diffusion.sample(denoise, noise[2:3], nfe=9).x_0, whole[2:3], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("prediction", "sampler"), PAIRS)
def test_trajectory(prediction, sampler):
    diffusion = make(prediction, sampler)
    denoise = best_denoiser(diffusion)
    _, noise = pair()
    sampled = diffusion.sample(denoise, noise, nfe=20, keep=(0.0, 1.0, 0.5, 0.5))
    trajectory = sampled.trajectory
    assert trajectory is not None and len(trajectory.times) == 3
    assert trajectory.times[0] == 1.0 and trajectory.times[-1] == 0.0
    assert abs(trajectory.times[1] - 0.5) <= 0.06
    assert torch.equal(trajectory.x_t[0], noise) and torch.equal(trajectory.x_t[-1], sampled.x_0)
    assert torch.equal(trajectory.x_0[-1], sampled.x_0)
    t = torch.full((6,), trajectory.times[1])
    expected = diffusion.predict_x_0(trajectory.x_t[1], denoise(trajectory.x_t[1], t), t)
    torch.testing.assert_close(trajectory.x_0[1], expected, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------------ guidance


def test_guidance_algebra():
    x_t, _ = pair()
    t = torch.linspace(0.1, 1, 6)
    calls: list[tuple[Tensor, Tensor]] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        calls.append((x, t))
        condition = torch.cat([torch.ones(6), torch.zeros(6)])[: len(x)].reshape(-1, 1, 1, 1)
        return x * t.reshape(-1, 1, 1, 1) + condition

    plain = x_t * t.reshape(-1, 1, 1, 1)
    for scale in (0.0, 0.5, 3.0):
        torch.testing.assert_close(guided(denoise, scale)(x_t, t), plain + scale)
        x, times = calls.pop()
        assert torch.equal(x, torch.cat([x_t, x_t])) and torch.equal(times, torch.cat([t, t]))
    assert torch.equal(guided(denoise, 1.0)(x_t, t), plain + 1)
    assert len(calls) == 1 and len(calls[0][0]) == 6


def test_guidance_of_equal_halves_is_no_guidance():
    diffusion = make()
    denoise = best_denoiser(diffusion)
    _, noise = pair()
    plain = diffusion.sample(denoise, noise, nfe=6).x_0
    torch.testing.assert_close(diffusion.sample(guided(denoise, 4.0), noise, nfe=6).x_0, plain, atol=1e-6, rtol=0)


# -------------------------------------------------------------------------------------------------- bad input, hash


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": "epsilon"}, "does not fit epsilon: choose ddim or dpmpp"),
        ({"sampler": "ddim"}, "does not fit flow"),
        ({"prediction": "flwo"}, "did you mean 'flow'"),
        ({"sampler": "huen"}, "did you mean 'heun'"),
        ({"time_sampling": "logitnormal"}, "did you mean 'logit_normal'"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"shift": float("nan")}, "shift is nan"),
        ({"prediction": "epsilon", "sampler": "ddim", "shift": 2.0}, "only flow has a time shift"),
        ({"train_times": 1}, "at least 2"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(UserError, match=message):
        Diffusion(**fields)


def test_bad_sampling():
    noise = torch.zeros(1, 1)
    with pytest.raises(UserError, match="at least 1"):
        make().sample(lambda x, t: x, noise, nfe=0)
    with pytest.raises(UserError, match="at most the 1000"):
        make("epsilon").sample(lambda x, t: x, noise, nfe=1001)
    with pytest.raises(UserError, match="time to keep is 2"):
        make().sample(lambda x, t: x, noise, nfe=2, keep=(2.0,))
    with pytest.raises(UserError, match="guidance is"):
        guided(lambda x, t: x, float("inf"))
    with pytest.raises(ValueError, match="denoise answered"):
        make().sample(lambda x, t: x[:, :0], noise, nfe=2)


def test_record_decides_results_and_is_json():
    records = [make(p, s, shift=shift).record() for p, s in PAIRS for shift in ((1.0, 2.0) if p == "flow" else (1.0,))]
    assert len({json.dumps(record, sort_keys=True, allow_nan=False) for record in records}) == len(records)
    # a field without effect does not change the record
    assert make(train_times=500).record() == make().record()
    assert make("epsilon", train_times=500).record() != make("epsilon").record()
