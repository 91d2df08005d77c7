"""The reverse process as a list of network evaluations over diffusers' schedulers.

Each sampler spends exactly the evaluations asked for. diffusers' schedulers are used for their update rules; the times
are set here, because their own defaults are not what their names promise (diffusers 0.42):

- FlowMatch*.set_timesteps goes linearly from 1 to 1/1000, so that the last of n steps is 0.001 long and its evaluation
  is wasted; with a shift it shifts its lower end twice. Here n steps are 1/n long each before the shift.
- FlowMatchHeun spends 2n - 1 evaluations in n steps, the last being an Euler step.
- DDIM takes the time before t as t - T // n, which leaves its own grid where n does not divide T, and then ends on a
  noisy picture. Eta-0 DDIM is DPM-Solver++ of order one (arXiv 2211.01095, section 4), which takes any grid.
- DPM-Solver on flow levels starts at 0.999 and truncates its times to whole thousandths.
- All of them keep state, so every sampling makes its own.

Discrete times are spaced "trailing": the first is always pure noise (arXiv 2305.08891, section 3.3). DPM-Solver++'s
last step, from a level above zero to zero, is of order one: it is second order everywhere before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from approaches.shared.samplers import Prediction, SamplerName
from bench.errors import UserError

# DPM-Solver works in log(alpha / sigma), infinite at flow's pure noise; this is the nearest level that it is given.
FLOW_START = 1.0 - 2.0**-20


@dataclass(frozen=True)
class Evaluation:
    """One network evaluation: at time `t`, followed by `step(prediction, x_t) -> x_t` of the next evaluation.

    `node` says that x_t is a state of the trajectory, not Heun's trial point.
    """

    t: float
    step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    node: bool = True


def evaluations(
    sampler: SamplerName, prediction: Prediction, nfe: int, *, shift: float = 1.0, train_times: int = 1000
) -> list[Evaluation]:
    """The `nfe` evaluations of one sampling from pure noise (t = 1) to the clean picture (t = 0).

    UserError where `nfe` is below 1, or above `train_times` for a prediction with discrete times.
    """
    if nfe < 1:
        raise UserError(f"nfe is {nfe}, expected at least 1")
    if prediction != "flow":
        return _discrete(prediction, nfe, train_times, order=1 if sampler == "ddim" else 2)
    if sampler == "euler":
        return _euler(nfe, shift)
    if sampler == "heun":
        return _heun(nfe, shift)
    return _flow_dpm(nfe, shift)


def shifted(t: Any, shift: float) -> Any:
    """The time shift shift t / (1 + (shift - 1) t) of SD3 (arXiv 2403.03206, equation 23), which keeps 0 and 1."""
    return shift * t / (1 + (shift - 1) * t)


def noise_schedule(prediction: Prediction, train_times: int) -> dict[str, Any]:
    """Arguments of diffusers' schedulers for the discrete schedule of epsilon and v.

    Stable Diffusion's betas; for v rescaled so that t = 1 is pure noise (arXiv 2305.08891), as sampling starts there.
    An epsilon prediction says nothing about x_0 at pure noise, so it keeps the original.
    """
    return {
        "num_train_timesteps": train_times,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": prediction == "v_prediction",
    }


def discrete_scheduler(prediction: Prediction, train_times: int, *, order: int) -> Any:
    """DPM-Solver++ multistep of `order`, without times, on the discrete schedule of epsilon or v."""
    return _new(
        DPMSolverMultistepScheduler,
        **noise_schedule(prediction, train_times),
        prediction_type=prediction,
        solver_order=order,
    )


def _new(scheduler: Any, **arguments: Any) -> Any:
    # diffusers' decorators hide the classes' types
    return scheduler(**arguments)


def _evaluation(scheduler: Any, index: int, t: float, *, node: bool = True) -> Evaluation:
    # the scheduler counts its own steps from its begin index; the time it is handed decides nothing after that
    timestep = scheduler.timesteps[index]

    def step(prediction: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        x_next: torch.Tensor = scheduler.step(prediction, timestep, x_t, return_dict=False)[0]
        return x_next

    return Evaluation(t, step, node)


def _euler_scheduler(steps: int, shift: float, begin: int) -> Any:
    scheduler = _new(FlowMatchEulerDiscreteScheduler, shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist())
    scheduler.set_begin_index(begin)
    return scheduler


def _euler(nfe: int, shift: float) -> list[Evaluation]:
    scheduler = _euler_scheduler(nfe, shift, 0)
    return [_evaluation(scheduler, i, float(scheduler.sigmas[i])) for i in range(nfe)]


def _heun(nfe: int, shift: float) -> list[Evaluation]:
    """Heun steps of two evaluations, then one Euler step (odd `nfe`, as in diffusers) or two (even `nfe`).

    A second evaluation at t = 0, where no training time lies, is so avoided; the order stays two, because the last
    steps' local errors are of second order.
    """
    steps = nfe // 2 + 1
    pairs = (nfe - 1) // 2
    heun = _new(FlowMatchHeunDiscreteScheduler, shift=shift)
    heun.sigma_min = 1.0 / steps  # before the shift, which set_timesteps applies
    heun.set_timesteps(steps)
    heun.set_begin_index(0)
    euler = _euler_scheduler(steps, shift, pairs)
    # both have the same levels; read from one, the trial point's time and the next state's are the same bits
    levels = euler.sigmas.tolist()
    result = [_evaluation(heun, i, levels[(i + 1) // 2], node=i % 2 == 0) for i in range(2 * pairs)]
    return result + [_evaluation(euler, i, levels[i]) for i in range(pairs, steps)]


def _flow_dpm(nfe: int, shift: float) -> list[Evaluation]:
    scheduler = _new(
        DPMSolverMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2
    )
    scheduler.set_timesteps(nfe)
    scheduler.set_begin_index(0)
    levels = shifted(np.linspace(1.0, 0.0, nfe + 1), shift)
    scheduler.sigmas = torch.tensor([FLOW_START, *levels[1:]], dtype=torch.float32)
    return [_evaluation(scheduler, i, float(levels[i])) for i in range(nfe)]


def _discrete(prediction: Prediction, nfe: int, train_times: int, *, order: int) -> list[Evaluation]:
    if nfe > train_times:
        raise UserError(f"nfe is {nfe}, expected at most the {train_times} train_times of {prediction}")
    counts = np.round(np.arange(nfe, 0, -1) * (train_times / nfe)).astype(np.int64)
    scheduler = discrete_scheduler(prediction, train_times, order=order)
    scheduler.set_timesteps(timesteps=(counts - 1).tolist())
    scheduler.set_begin_index(0)
    return [_evaluation(scheduler, i, float(counts[i]) / train_times) for i in range(nfe)]
