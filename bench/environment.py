"""Provenance: which code, packages, machine and seeds a result came from. Imports torch only where it already is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.files import hash_bytes

ROOT = Path(__file__).parent.parent
QUOTA = Path("/sys/fs/cgroup/cpu.max")
WITNESS = "bench/environment.py"
SOURCES = ("bench", "approaches", "metrics", "reports")
PACKAGES = (
    "torch", "torchvision", "transformers", "diffusers", "accelerate", "tokenizers", "safetensors", "numpy", "scipy",
    "pillow", "open_clip_torch", "torch-fidelity", "torchmetrics", "timm", "liger-kernel", "triton", "gguf", "datasets",
    "webdataset", "huggingface_hub", "tyro",
)  # fmt: skip
"""The packages whose versions can change a number; absent ones are left out of a record."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What git says of the sources. id and dirty are None where it can't say, and then `reason` does.

    dirty: whether any tracked file differs from the commit, or an untracked one that is not ignored lies there.
    """

    id: str | None
    dirty: bool | None
    reason: str = ""


def provenance(seeds: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Everything but the config that a result made here and now with these seeds can depend on, and that a reader needs
    to repeat it, as plain JSON values. sources: hash of our own code, the same with and without git; threads: of torch,
    or what the environment asks for."""
    from bench import __version__

    return {
        "commit": asdict(commit(ROOT)),
        "sources": source_hash(),
        "version": __version__,
        "packages": versions(PACKAGES),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "devices": list(device_names()),
        "threads": threads(),
        "seeds": dict(seeds or {}),
    }


def commit(folder: Path) -> Commit:
    """The commit checked out around `folder`, and whether the tree differs from it. It must hold WITNESS: an installed
    copy may lie under a repository that is not its own."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if isinstance(top, Exception):
        return Commit(id=None, dirty=None, reason=f"no git checkout: {_why(top)}")
    head = _git(folder, "rev-parse", "HEAD")
    if isinstance(head, Exception):
        return Commit(id=None, dirty=None, reason=f"no commit yet: {_why(head)}")
    if isinstance(_git(folder, "cat-file", "-e", f"HEAD:./{WITNESS}"), Exception):
        return Commit(
            id=None, dirty=None, reason=f"the checkout around these sources has no {WITNESS}: it is another's"
        )
    status = _git(folder, "status", "--porcelain")
    if isinstance(status, Exception):
        return Commit(id=head, dirty=None, reason=f"git status failed: {_why(status)}")
    return Commit(id=head, dirty=bool(status))


def source_hash(root: Path = ROOT, packages: Sequence[str] = SOURCES) -> str:
    """16 hex digits over the path and content of every .py file of these of our packages under `root`."""
    files = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    return hash_bytes(*(part for path in files for part in (path.relative_to(root).as_posix(), path.read_bytes())))


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Package -> installed version, of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        try:
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on, or as many as a container's share of the time is worth, where that is
    less (cgroup v2's cpu.max)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, QUOTA.read_text(encoding="ascii").split())
        return max(1, min(cores, -(-quota // period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such system, or "max"
        return cores


def device_names() -> tuple[str, ...]:
    """The accelerators that torch sees; none where torch was not imported by anyone yet."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def threads() -> dict[str, int]:
    """torch's threads within and between operations, where it is imported; OMP_NUM_THREADS where it is set."""
    found = {}
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        found["omp"] = int(asked)
    if (torch := sys.modules.get("torch")) is not None:
        found |= {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()}
    return found


def _git(folder: Path, *arguments: str) -> str | Exception:
    """What a git command prints; the exception where git or the checkout is not there."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    # Inside a git hook these name the repository of the hook.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=surroundings)
        return str(done.stdout).strip()
    except (OSError, subprocess.SubprocessError) as error:
        return error


def _why(error: Exception) -> str:
    """In one line, without what this machine's folders are called: it goes into records."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"git took more than {error.timeout:g} seconds"
    said = str(error)
    if isinstance(error, subprocess.CalledProcessError):
        said = str(error.stderr or "").strip() or f"git ended with {error.returncode}"
    line = (said.splitlines() or [type(error).__name__])[0]
    for path in (r"(?P<quote>['\"]).*[/\\].*(?P=quote)", r"(?:\b[A-Za-z]:)?[/\\](?=[^\s)]).*"):
        line = re.sub(path, "...", line)  # in quotes to their end, else to the line's
    return line
