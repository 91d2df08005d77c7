"""The house's arrows, read from the imports: who may import whom, what may load torch, how long things may be.

`faults(root)` judges a tree; the first test holds it against ours, the others against trees that break one rule each.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("approaches", "bench", "metrics", "reports")
GUARD = "bench.torchvision_guard"
LEAVES = frozenset(
    {
        "bench.errors",
        "bench.ranges",
        "bench.registry",
        "bench.files",
        "bench.plain",
        "bench.printable",
        "bench.seeds",
        "bench.reach",
        "bench.data.scene",
        "metrics.differences",
        "metrics.multiplicity",
        "metrics.replication",
        "metrics.statistics",
        GUARD,
    }
)
COMMON = ("approaches.base", "approaches.registry", "approaches.settings", "approaches.shared")
TORCH = frozenset(
    [
        "torch",
        "torchvision",
        "transformers",
        "diffusers",
        "accelerate",
        "open_clip",
        "timm",
        "torchmetrics",
        "torch_fidelity",
        "liger_kernel",
    ]
)
# Loaded before torch may be: for the command line's answers, and by readers of records.
TORCH_FREE = frozenset(
    [
        "bench",
        "bench.__main__",
        "bench.cli",
        "bench.console",
        "bench.parsing",
        "bench.config",
        "bench.presets",
        "bench.registry",
        "bench.listing",
        "bench.exits",
        "bench.report",
        "bench.report_arguments",
        "bench.gates",
        *(f"bench.gates.{name}" for name in ("arguments", "baseline", "benchmarks", "clock", "findings", "gate")),
        *(f"bench.gates.{name}" for name in ("judge", "output", "pairs", "speed", "thresholds", "trees", "workers")),
        "bench.quantiles",
        "bench.run_arguments",
        "bench.sweep",
        "bench.sweep_arguments",
        "bench.array",
        "bench.array_arguments",
        "bench.reproduce",
        "bench.reproduce_arguments",
        "bench.known_shapes",
        "bench.launch",
        "bench.hands_on_arguments",
        "bench.judge_arguments",
        "bench.prompt_file",
        "bench.plan_arguments",
        "bench.plan",
        "bench.budget",
        "bench.hardware",
        "bench.published",
        "bench.clean_arguments",
        "bench.clean",
        "bench.shadows",
        "bench.store",
        "bench.notebook",
        "bench.runner",
        "bench.results_table",
        "bench.worker",
        "bench.errors",
        "bench.files",
        "bench.plain",
        "bench.printable",
        "bench.seeds",
        "bench.reach",
        "approaches",
        "approaches.registry",
        "approaches.settings",
        "metrics",
        "metrics.registry",
        "metrics.differences",
        "metrics.multiplicity",
        "metrics.replication",
        "metrics.statistics",
    ]
)
TORCH_FREE_TREES = ("bench.data", "reports")
LONGEST_FILE, LONGEST_FUNCTION = 350, 60


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module, and whether importing the importer is enough to load it."""

    target: str
    line: int
    eager: bool


def within(module: str, tree: str) -> bool:
    return module == tree or module.startswith(f"{tree}.")


def torch_free(module: str) -> bool:
    return module in TORCH_FREE or any(within(module, tree) for tree in TORCH_FREE_TREES)


def sources(root: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(path for package in OURS for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(node: ast.AST, eager: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, eager
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from ((inner, False) for part in child.body for inner, _ in statements(ast.Module([part], [])))
            yield from ((inner, e) for part in child.orelse for inner, e in statements(ast.Module([part], []), eager))
        else:
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from statements(child, eager and not lazy)


def imports(module: str, path: Path, known: frozenset[str]) -> Iterator[Import]:
    for node, eager in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            steps = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*steps, *([node.module] if node.module else [])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if name in known else base for name in whole]
        yield from (Import(target=target, line=node.lineno, eager=eager) for target in targets)


def arrow_fault(module: str, target: str) -> str:
    """Why `module` may not import `target`, a module of ours; "" where it may."""
    if target in LEAVES and not (target == GUARD and torch_free(module)):
        return ""
    if module in LEAVES:
        return "a leaf imports leaves only"
    match module.split(".")[0]:
        case "bench":
            concrete = target.startswith("approaches.") and not any(within(target, tree) for tree in COMMON)
            return "an approach is reached through its registry, never by name" if concrete else ""
        case "metrics":
            return "" if within(target, "metrics") else "metrics imports nothing of ours"
        case "reports":
            return "" if within(target, "reports") else "reports reads records only"
    if within(module, "approaches.shared"):
        return "" if within(target, "approaches.shared") else "approaches.shared imports itself only"
    if module == "approaches.registry":
        return "the registry names approaches, it doesn't import them"
    if module == "approaches.settings":
        return "settings import leaves only"
    if module == "approaches.base":
        fits = within(target, "approaches.shared") or target == "approaches.settings"
        return "" if fits else "approaches.base imports approaches.shared and approaches.settings only"
    own = ".".join(module.split(".")[:2])
    if any(within(target, tree) for tree in (*COMMON, own)):
        return ""
    return "an approach imports approaches.base, .settings, .shared and .registry only"


def loaded(module: str, found: dict[str, list[Import]]) -> dict[str, str]:
    """Every module that importing `module` loads, with the chain that leads to it."""
    chains, open_ = {module: module}, [module]
    while open_:
        current = open_.pop()
        parents = [current.rpartition(".")[0]] if "." in current else []
        for target in [*parents, *(i.target for i in found.get(current, []) if i.eager)]:
            if target and target not in chains:
                chains[target] = f"{chains[current]} -> {target}"
                open_.append(target)
    return chains


def faults(root: Path) -> list[str]:
    """Every broken rule in a tree, as `path:line: rule` sentences."""
    modules = sources(root)
    found = {name: list(imports(name, path, frozenset(modules))) for name, path in modules.items()}
    said = []
    for module, path in modules.items():
        place = path.relative_to(root).as_posix()
        for item in found[module]:
            top = item.target.split(".")[0]
            fault = arrow_fault(module, item.target) if top in OURS else ""
            if top in TORCH and within(module, "reports"):
                fault = "reports never imports torch, not even later"
            if top in TORCH and module in LEAVES - {GUARD}:
                fault = "a leaf imports no torch"
            if top in {"tests", "utils"}:
                fault = f"nothing imports {top}"
            said += [f"{place}:{item.line}: imports {item.target}: {fault}"] if fault else []
        if torch_free(module):
            chains = loaded(module, found)
            heavy = next((chain for name, chain in chains.items() if name.split(".")[0] in TORCH), "")
            said += [f"{place}:1: loads torch: {heavy}"] if heavy else []
        said += shape_faults(place, path)
    return said


def shape_faults(place: str, path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if path.stem in {"utils", "util", "helpers", "misc"} or path.parent.name == "utils":
        yield f"{place}:1: a module is named after what it holds, not {path.stem}"
    if (lines := len(text.splitlines())) > LONGEST_FILE:
        yield f"{place}:1: {lines} lines, at most {LONGEST_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{place}:{node.lineno}: {node.name} has {lines} lines, at most {LONGEST_FUNCTION}"


def test_our_tree_keeps_every_rule() -> None:
    assert set(OURS) <= {module.split(".")[0] for module in sources(ROOT)}
    assert "\n".join(faults(ROOT)) == ""


def test_torch_free_modules_load_no_torch_when_run() -> None:
    names = [name for name in sources(ROOT) if torch_free(name) and not name.endswith("__main__")]
    assert {"bench.config", "bench.data.shapes", "metrics.registry"} <= set(names)
    code = (
        f"import importlib, sys\nfor name in {names!r}:\n importlib.import_module(name)\n"
        f" assert not (heavy := {set(TORCH)!r} & set(sys.modules)), (name, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


GOOD = {
    "bench/__init__.py": "",
    "bench/errors.py": "",
    "bench/torchvision_guard.py": "import torch",
    "bench/config.py": "from bench.errors import UserError",
    "bench/cli.py": "def main():\n    from bench import stages",
    "bench/stages.py": "import torch\nfrom approaches import registry\nimport metrics.fidelity\nimport reports.html",
    "bench/data/__init__.py": "",
    "bench/data/scene.py": "import re",
    "bench/data/shapes.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
    "approaches/__init__.py": "",
    "approaches/base.py": "import torch\nfrom approaches.shared.vae import Codec",
    "approaches/registry.py": "from bench import errors",
    "approaches/modular/__init__.py": "",
    "approaches/modular/approach.py": "from ..base import Approach\nfrom ..shared import vae\nfrom . import planner",
    "approaches/modular/planner.py": "from bench.data.scene import Scene",
    "approaches/full_retraining.py": "from approaches import base",
    "approaches/shared/__init__.py": "",
    "approaches/shared/vae.py": "from . import kernels\nimport bench.torchvision_guard\nimport diffusers",
    "approaches/shared/kernels.py": "import torch",
    "metrics/__init__.py": "",
    "metrics/statistics.py": "import numpy",
    "metrics/fidelity.py": "import torch\nfrom metrics import statistics",
    "reports/__init__.py": "",
    "reports/schema.py": "from metrics.statistics import Estimate",
    "reports/html.py": "from reports.schema import Record\nfrom reports import tables",
    "reports/tables.py": "import pandas",
}

BROKEN = {
    "approach imports a rival": (
        "approaches/modular/planner.py",
        "from .. import full_retraining",
        "an approach imports",
    ),
    "approach imports the top": ("approaches/modular/approach.py", "import bench.config", "an approach imports"),
    "approach imports a metric": (
        "approaches/full_retraining.py",
        "from metrics.fidelity import fid",
        "an approach imports",
    ),
    "approach imports a rival's part": (
        "approaches/full_retraining.py",
        "from approaches.modular import planner",
        "an approach imports",
    ),
    "shared imports an approach": ("approaches/shared/vae.py", "from ..modular import planner", "imports itself only"),
    "shared imports the top": ("approaches/shared/vae.py", "from bench import config", "imports itself only"),
    "base imports an approach": ("approaches/base.py", "import approaches.modular", "approaches.settings only"),
    "registry imports an approach": ("approaches/registry.py", "import approaches.modular", "doesn't import them"),
    "the top names an approach": (
        "bench/stages.py",
        "from approaches.modular.approach import Modular",
        "never by name",
    ),
    "in a function": ("metrics/fidelity.py", "def f():\n    import bench.config", "nothing of ours"),
    "for types": (
        "metrics/fidelity.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from approaches.base import Approach",
        "nothing of ours",
    ),
    "metrics imports reports": ("metrics/fidelity.py", "import reports.schema", "nothing of ours"),
    "reports imports metrics": ("reports/html.py", "import metrics.fidelity", "records only"),
    "reports imports the top": ("reports/html.py", "import bench.config", "records only"),
    "reports imports torch late": ("reports/html.py", "def f():\n    import torch", "not even later"),
    "reports imports the guard": ("reports/html.py", "import bench.torchvision_guard", "records only"),
    "leaf imports the top": ("bench/errors.py", "import bench.config", "a leaf imports leaves only"),
    "leaf imports torch": ("bench/errors.py", "def f():\n    import torch", "a leaf imports no torch"),
    "statistics imports metrics": ("metrics/statistics.py", "from . import fidelity", "leaves only"),
    "config imports torch": ("bench/config.py", "import torch.nn", "loads torch: bench.config -> torch.nn"),
    "dataset imports timm": ("bench/data/shapes.py", "class A:\n    import timm", "loads torch"),
    "by way of another": ("bench/cli.py", "from bench import stages", "bench.cli -> bench.stages -> torch"),
    "by way of a package": ("bench/data/__init__.py", "import torch", "bench.data.shapes -> bench.data -> torch"),
    "in a try": ("bench/presets.py", "try:\n    import torch\nexcept ImportError:\n    pass", "loads torch"),
    "otherwise than for types": (
        "bench/data/shapes.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import torch",
        "loads torch",
    ),
    "imports the tests": ("bench/stages.py", "from tests import conftest", "nothing imports tests"),
    "named utils": ("metrics/utils.py", "", "named after what it holds"),
    "a utils package": ("approaches/shared/utils/text.py", "", "named after what it holds"),
    "long file": ("bench/stages.py", "x = 1\n" * 351, "351 lines"),
    "long function": ("bench/stages.py", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
    "long method": ("bench/stages.py", "class A:\n  async def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_good_tree_has_no_fault(tmp_path: Path) -> None:
    longest = {
        "metrics/long.py": "def f():\n" + "    x = 1\n" * (LONGEST_FUNCTION - 1),
        "metrics/longer.py": "x = 1\n" * LONGEST_FILE,
    }
    assert faults(plant(tmp_path, {**GOOD, **longest})) == []


@pytest.mark.parametrize("case", BROKEN)
def test_each_broken_rule_is_found(tmp_path: Path, case: str) -> None:
    name, text, sentence = BROKEN[case]
    found = faults(plant(tmp_path, {**GOOD, name: text}))
    assert any(sentence in fault for fault in found), found
    assert any(fault.startswith(f"{name}:") or "by way" in case for fault in found), found
