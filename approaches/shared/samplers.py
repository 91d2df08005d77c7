"""What a denoiser may predict, and the samplers that can follow each; no torch, so that a command line can judge it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Prediction = Literal["flow", "epsilon", "v_prediction"]
SamplerName = Literal["euler", "heun", "ddim", "dpmpp"]

SAMPLERS: Mapping[Prediction, tuple[SamplerName, ...]] = {
    "flow": ("euler", "heun", "dpmpp"),
    "epsilon": ("ddim", "dpmpp"),
    "v_prediction": ("ddim", "dpmpp"),
}
"""prediction -> the samplers that fit it."""
