"""Sampling against closed forms: on Gaussian data the best denoiser and the probability-flow ODE are known exactly."""

from __future__ import annotations

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

from approaches.shared.diffusion import Diffusion, guided
from approaches.shared.randomness import generator
from approaches.shared.samplers import SAMPLERS, Prediction
from approaches.shared.solvers import noise_schedule

MEAN, SPREAD = 0.7, 0.4
PAIRS = [(prediction, sampler) for prediction, fitting in SAMPLERS.items() for sampler in fitting]


def make(prediction: Prediction = "flow", sampler: str | None = None, **fields: Any) -> Diffusion:
    fields |= {"prediction": prediction, "sampler": sampler or SAMPLERS[prediction][0]}
    return Diffusion(**fields)


def pair(batch: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = generator(seed, "test diffusion")
    return torch.randn(batch, 4, 5, 3, generator=g), torch.randn(batch, 4, 5, 3, generator=g)


def best_denoiser(diffusion: Diffusion) -> Callable[[Tensor, Tensor], Tensor]:
    """The optimal prediction where every element of x_0 is drawn from N(MEAN, SPREAD^2)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        shape = (-1, *[1] * (x_t.dim() - 1))
        alpha, sigma = (level.double().reshape(shape) for level in diffusion.signal_and_noise(t))
        away = (x_t.double() - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
        x_0, noise = MEAN + alpha * SPREAD**2 * away, sigma * away
        target = {"flow": noise - x_0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x_0}
        return target[diffusion.prediction].float()

    return denoise


def exact_state(diffusion: Diffusion, noise: Tensor, t: float) -> Tensor:
    """Where the probability-flow ODE that starts at `noise`, t = 1, is at `t`: the distance from the mean scales with
    the marginal's standard deviation."""
    (alpha, sigma), (alpha_1, sigma_1) = (
        [float(level) for level in diffusion.signal_and_noise(torch.tensor(time))] for time in (t, 1.0)
    )
    scale = math.hypot(alpha * SPREAD, sigma) / math.hypot(alpha_1 * SPREAD, sigma_1)
    return (alpha * MEAN + scale * (noise.double() - alpha_1 * MEAN)).float()


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


@pytest.mark.parametrize("sampler", ["euler", "dpmpp"])
def test_flow_samplers_visit_even_times_that_are_shifted(sampler):
    seen: list[float] = []

    def noted(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return x_t

    make(sampler=sampler, shift=3.0).sample(noted, torch.zeros(2, 1), nfe=4)
    assert seen == pytest.approx([3 * t / (1 + 2 * t) for t in (1.0, 0.75, 0.5, 0.25)])


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
    scheduler: Any = DPMSolverMultistepScheduler(
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
        **noise_schedule(prediction, 1000),
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
