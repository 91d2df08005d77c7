"""Noising, targets and times against closed forms and diffusers' own formulas; bad input; records."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from approaches.shared.diffusion import Diffusion, guided
from approaches.shared.randomness import generator
from approaches.shared.samplers import SAMPLERS, Prediction
from approaches.shared.solvers import noise_schedule
from bench.errors import UserError

PAIRS = [(prediction, sampler) for prediction, fitting in SAMPLERS.items() for sampler in fitting]
PREDICTIONS = list(SAMPLERS)


def make(prediction: Prediction = "flow", sampler: str | None = None, **fields: Any) -> Diffusion:
    fields |= {"prediction": prediction, "sampler": sampler or SAMPLERS[prediction][0]}
    return Diffusion(**fields)


def pair(batch: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = generator(seed, "test diffusion")
    return torch.randn(batch, 4, 5, 3, generator=g), torch.randn(batch, 4, 5, 3, generator=g)


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
    scheduler = DDIMScheduler(**noise_schedule(prediction, 1000))
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
    alpha, sigma = diffusion.signal_and_noise(torch.linspace(0, 1, 1001))
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
    with pytest.raises(UserError, match="denoise answered"):
        make().sample(lambda x, t: x[:, :0], noise, nfe=2)


def test_record_decides_results_and_is_json():
    records = [make(p, s, shift=shift).record() for p, s in PAIRS for shift in ((1.0, 2.0) if p == "flow" else (1.0,))]
    assert len({json.dumps(record, sort_keys=True, allow_nan=False) for record in records}) == len(records)
    # a field without effect does not change the record
    assert make(train_times=500).record() == make().record()
    assert make("epsilon", train_times=500).record() != make("epsilon").record()
