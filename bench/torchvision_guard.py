"""Lets torchvision import beside a CPU build of torch. A leaf module: import it before what imports torchvision.

torchvision's wheel from the package index is built against CUDA. Beside a CPU torch its compiled half does not load,
and then `import torchvision` dies with "operator torchvision::nms does not exist", because its Python half registers
shape functions for operators that nobody declared. Declaring the two operators is enough for the import; calling them
still fails, as it should, and nothing here calls them. Where torch has CUDA, or torchvision is absent or already
imported, this does nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # kept alive: torch removes a library's operators when it is collected


def _compiled_half_loads(folder: Path) -> bool:
    try:
        for file in folder.glob("_C*.so"):
            torch.ops.load_library(str(file))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


def guard() -> bool:
    """Declare the operators where they are missing; True where they had to be declared."""
    if _declared or "torchvision" in sys.modules or torch.version.cuda is not None:
        return bool(_declared)
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return False
    if _compiled_half_loads(Path(package.submodule_search_locations[0])):
        return False
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    return True


guard()
