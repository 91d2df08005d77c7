"""The diffusion that every approach shares: noising, targets and losses for training; sampling; both made visible.

B batch, C H W a latent's channels, height and width (any trailing shape works), K kept times.

    x_0   B C H W  clean latent
    noise B C H W  standard normal
    x_t   B C H W  alpha(t) x_0 + sigma(t) noise
    t     B        time in float32: 0 is clean, 1 is noise, whatever the prediction

In flow (rectified flow, arXiv 2209.03003), alpha = 1 - t and sigma = t, and t is continuous. The schedule of epsilon
and v has `train_times` = T discrete times: diffusers' timestep k in 0..T-1 is t = (k + 1) / T, and t = 0 is the clean
latent itself; other values of t stand for the nearest of these. Everything is computed in float32, whatever the inputs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from approaches.shared.samplers import SAMPLERS, Prediction, SamplerName
from approaches.shared.solvers import discrete_scheduler, evaluations, noise_schedule, shifted
from bench.errors import UserError, nearest

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> prediction."""

TimeSampling = Literal["logit_normal", "uniform"]


class Trajectory(NamedTuple):
    """The reverse process at the sampler's times nearest to those asked for, from noise to clean."""

    times: tuple[float, ...]
    """K times that the sampler visited."""
    x_t: Tensor
    """K B C H W, float32."""
    x_0: Tensor
    """K B C H W, float32: what the network took the clean latent to be at that time."""


class Sampled(NamedTuple):
    """What a sampling made and spent."""

    x_0: Tensor
    """B C H W, float32."""
    nfe: int
    """Network evaluations: calls of `denoise`."""
    trajectory: Trajectory | None
    """None where no times were to be kept."""


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """One noise schedule, prediction target, distribution of training times, and sampler. Holds no state.

    UserError where a field is out of range or the sampler does not fit the prediction.
    """

    prediction: Prediction = "flow"
    """What the network predicts: flow, noise - x_0; epsilon, the noise; v_prediction, alpha noise - sigma x_0."""
    time_sampling: TimeSampling = "logit_normal"
    """Training times: the sigmoid of a standard normal (SD3, arXiv 2403.03206, section 3.1), or uniform."""
    shift: float = 1.0
    """Flow's time shift, of training and sampling times; above 1 spends more of them near the noise."""
    train_times: int = 1000
    """Discrete times of epsilon and v."""
    sampler: SamplerName = "euler"

    def __post_init__(self) -> None:
        """Judge the fields."""
        for name, kind in (("prediction", Prediction), ("time_sampling", TimeSampling), ("sampler", SamplerName)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise UserError(f"unknown {name} {value!r}: {nearest(str(value), get_args(kind))}")
        fitting = SAMPLERS[self.prediction]
        if self.sampler not in fitting:
            raise UserError(f"sampler {self.sampler!r} does not fit {self.prediction}: choose {' or '.join(fitting)}")
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise UserError(f"shift is {self.shift}, expected a finite number above 0")
        if self.prediction != "flow" and self.shift != 1.0:
            raise UserError(f"shift is {self.shift}, but only flow has a time shift: leave it at 1.0")
        if self.train_times < 2:
            raise UserError(f"train_times is {self.train_times}, expected at least 2")

    # ------------------------------------------------------------------------------------------------- training

    def times(self, batch: int, generator: torch.Generator, *, levels: int = 1) -> Tensor:
        """`levels` training times for each of a batch, (B levels) float32 in [0, 1], 0 by rounding alone, an item's
        side by side, on the generator's device. An item's lie one in each `levels`-th part of the distribution
        (stratified sampling), so that a step's loss depends less on luck."""
        luck = torch.rand(batch, levels, generator=generator, device=generator.device)
        t = 1.0 - (torch.arange(levels, device=luck.device) + luck).flatten() / levels
        if self.time_sampling == "logit_normal":
            t = torch.sigmoid(torch.special.ndtri(t))
        # the shift is skipped at 1 so that t is bit-equal to the draw
        t = t if self.shift == 1.0 else shifted(t, self.shift)
        if self.prediction != "flow":
            t = torch.ceil(t * self.train_times) / self.train_times
        return t

    def noise_like(self, x_0: Tensor, generator: torch.Generator) -> Tensor:
        """Standard normal noise of the shape and device of `x_0`, float32, drawn on the generator's device."""
        return torch.randn(x_0.shape, generator=generator, device=generator.device).to(x_0.device)

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`alpha` and `sigma` at `t`, of t's shape, float32."""
        t = t.float()
        if self.prediction == "flow":
            return 1.0 - t, t
        table = signal_power(self.prediction, self.train_times, t.device)
        power = table[torch.round(t * self.train_times).long()]
        return power.sqrt(), (1.0 - power).sqrt()

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t, B C H W float32."""
        alpha, sigma = self._signal_and_noise_for(x_0, t)
        return alpha * x_0.float() + sigma * noise.float()

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to predict at x_t, B C H W float32."""
        x_0, noise = x_0.float(), noise.float()
        if self.prediction == "flow":
            return noise - x_0
        if self.prediction == "epsilon":
            return noise
        alpha, sigma = self._signal_and_noise_for(x_0, t)
        return alpha * noise - sigma * x_0

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of each sample, B float32; the mean is over a sample's elements only. UserError where the
        shapes differ, which torch would broadcast."""
        if prediction.shape != target.shape:
            raise UserError(f"denoise answered {tuple(prediction.shape)}, expected {tuple(target.shape)}")
        return (prediction.float() - target.float()).square().flatten(1).mean(1)

    def predict_x_0(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean latent that a prediction implies, B C H W float32. Epsilon divides by alpha, 0.07 at t = 1."""
        x_t, prediction = x_t.float(), prediction.float()
        alpha, sigma = self._signal_and_noise_for(x_t, t)
        if self.prediction == "flow":
            return x_t - sigma * prediction
        if self.prediction == "epsilon":
            return (x_t - sigma * prediction) / alpha
        return alpha * x_t - sigma * prediction

    def forward_trajectory(self, x_0: Tensor, noise: Tensor, times: Sequence[float]) -> Tensor:
        """The forward process at each of `times`, with the same noise: K B C H W float32."""
        return torch.stack([self.add_noise(x_0, noise, _full(x_0, t)) for t in times])

    def _signal_and_noise_for(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (x.dim() - 1))
        alpha, sigma = self.signal_and_noise(t)
        return alpha.reshape(shape), sigma.reshape(shape)

    # ------------------------------------------------------------------------------------------------- sampling

    def sample(self, denoise: Denoise, noise: Tensor, *, nfe: int, keep: Sequence[float] = ()) -> Sampled:
        """Draw from `noise` (B C H W) with exactly `nfe` calls of `denoise(x_t, t)`, without gradient.

        `denoise` is given float32 x_t, B C H W, and t, B; it may answer in any dtype. Heun spends an even `nfe` as
        Heun steps and two Euler steps, an odd one as Heun steps and one. For each time in `keep` the trajectory holds
        the nearest state that the sampler visits (0 is the result). UserError on an `nfe` or a time out of range.
        """
        plan = evaluations(self.sampler, self.prediction, nfe, shift=self.shift, train_times=self.train_times)
        kept = _nearest_nodes([*(e.t for e in plan if e.node), 0.0], keep)
        states: list[tuple[float, Tensor, Tensor]] = []
        with torch.no_grad():
            x_t = noise.float()
            for evaluation in plan:
                t = _full(x_t, evaluation.t)
                prediction = denoise(x_t, t).float()
                if prediction.shape != x_t.shape:
                    raise UserError(f"denoise answered {tuple(prediction.shape)}, expected {tuple(x_t.shape)}")
                if evaluation.node and evaluation.t in kept:
                    states.append((evaluation.t, x_t, self.predict_x_0(x_t, prediction, t)))
                x_t = evaluation.step(prediction, x_t)
        if 0.0 in kept:
            states.append((0.0, x_t, x_t))
        return Sampled(x_t, len(plan), _trajectory(states))

    def record(self) -> dict[str, Any]:
        """Everything here that decides a result, as plain JSON values."""
        record: dict[str, Any] = dataclasses.asdict(self)
        if self.prediction == "flow":
            del record["train_times"]
            return record
        return record | {"schedule": noise_schedule(self.prediction, self.train_times), "spacing": "trailing"}


def guided(denoise: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (arXiv 2207.12598), empty + scale (conditional - empty), as one batch of 2B.

    `denoise` is called with 2B rows: B for the prompts, then the same B for the empty prompt. At scale 1 the second
    half would cancel, so it is never computed: `denoise` is called with the B conditional rows only.
    """
    if not math.isfinite(scale):
        raise UserError(f"guidance is {scale}, expected a finite number")
    if scale == 1.0:
        return denoise

    def combined(x_t: Tensor, t: Tensor) -> Tensor:
        conditional, empty = denoise(torch.cat([x_t, x_t]), torch.cat([t, t])).float().chunk(2)
        return empty + scale * (conditional - empty)

    return combined


@functools.lru_cache(maxsize=8)
def signal_power(prediction: Prediction, train_times: int, device: torch.device) -> Tensor:
    """alpha squared at t = 0, 1/T, ..., 1: T + 1 values; the same numbers that the solvers read."""
    power = discrete_scheduler(prediction, train_times, order=1).alphas_cumprod
    return torch.cat([torch.ones(1), power]).to(device)


def _full(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.float32, device=x.device)


def _nearest_nodes(nodes: Sequence[float], asked: Sequence[float]) -> set[float]:
    for t in asked:
        if not 0.0 <= t <= 1.0:
            raise UserError(f"time to keep is {t}, expected 0 (clean) to 1 (noise)")
    return {min(nodes, key=lambda node: abs(node - t)) for t in asked}


def _trajectory(states: Sequence[tuple[float, Tensor, Tensor]]) -> Trajectory | None:
    if not states:
        return None
    times, x_t, x_0 = zip(*states, strict=True)
    return Trajectory(times, torch.stack(x_t), torch.stack(x_0))
