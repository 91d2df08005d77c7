"""A frozen network whose features of pictures approaches may align to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """features: uint8 pictures B H W 3 -> B E. width: E. parameter_count: of the network, which an approach borrows."""

    features: Callable[[NDArray[np.uint8]], Tensor]
    width: int
    parameter_count: int
