"""In a folder that holds a metrics.py, reports/ or approaches/ of its user's: what takes the place of ours is named,
nothing of it is imported, and the installed command does not see it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bench
from bench import cli, launch, runner, shadows, store
from bench.console import Console
from bench.environment import ROOT
from bench.errors import UserError
from bench.exits import MISTAKE
from bench.registry import at

INSTALLED = f"""
import importlib.util, sys
class Finder:  # as setuptools leaves it for a checkout: asked after every folder of the path
    def find_spec(self, name, path=None, target=None):
        if name in ("approaches", "bench", "metrics", "reports"):
            place, spec = {str(ROOT)!r} + "/" + name, importlib.util.spec_from_file_location
            return spec(name, place + "/__init__.py", submodule_search_locations=[place])
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in str(each)] + [Finder()]
sys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]
"""  # fmt: skip
SCRIPT = "from bench.cli import main\nsys.exit(main())"
MODULE = "sys.path.insert(0, '')\nimport runpy\nrunpy.run_module('bench', run_name='__main__', alter_sys=True)"


def python(folder: Path, *words: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
    """A process that is started in a folder, and finds our packages behind it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    env |= {"PYTHONPATH": str(ROOT), **surroundings}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)


def shadow(folder: Path, name: str) -> Path:
    """A module, or a package where the name ends in a slash, that leaves a file when it is imported."""
    path = folder / name
    if name.endswith("/"):
        path.mkdir()
    code = path / "__init__.py" if name.endswith("/") else path
    code.write_text("open('imported', 'w').close()\n")
    return path


@pytest.mark.parametrize("name", ["metrics.py", "reports/", "approaches/"])
def test_what_takes_the_place_of_ours_is_named(tmp_path: Path, name: str) -> None:
    path, package = shadow(tmp_path, name), name.partition(".")[0].rstrip("/")
    for words in (["list"], ["no-verb"]):
        done = python(tmp_path, "-m", "bench", *words)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr == (
            f"error: {path} takes the place of this program's own package '{package}': start in another folder, rename "
            "it, or use the command draw-bench, which imports nothing from there\n"
        )
    assert not (tmp_path / "imported").exists()


def test_a_folder_without_code_takes_the_place_of_an_installed_checkout_s(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    done = python(tmp_path, "-c", INSTALLED + MODULE, "list", PYTHONPATH="")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path / 'reports'} takes the place of"), done
    # Where ours is on the path itself, such a folder is passed over, and is no hindrance.
    assert python(tmp_path, "-m", "bench", "no-verb").stderr.startswith("error: unknown verb 'no-verb'")


def test_the_installed_command_imports_nothing_from_there(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert at(project["scripts"]["draw-bench"]) is cli.main
    for name in ("metrics.py", "reports/"):
        shadow(tmp_path, name)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "draw-bench"  # as pip writes it; its own folder is first on the path
    script.write_text(f"{INSTALLED}{SCRIPT}\n")
    done = python(tmp_path, str(script), "list", PYTHONPATH="")
    assert done.returncode == 0 and "dual_tower" in done.stdout, done.stderr
    assert python(tmp_path, str(script), "lisst", PYTHONPATH="").returncode == 2
    assert not (tmp_path / "imported").exists()


def test_elsewhere_on_the_path_it_is_named_with_other_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shadow(tmp_path, "metrics.py")
    monkeypatch.delitem(sys.modules, "metrics")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=f"rename it, or take {tmp_path} off Python's search path"):
        shadows.check_ours()
    monkeypatch.chdir(tmp_path)
    for call in (lambda: bench.load("dual_tower"), lambda: bench.run("dual_tower")):
        with pytest.raises(UserError, match=f"{path} takes .*'metrics': start in another folder, or rename it$"):
            call()
    assert not (tmp_path / "imported").exists()


def test_the_process_that_does_a_run_imports_nothing_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(tmp_path, "metrics.py")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert runner._work(tmp_path / "empty", Console()) == MISTAKE
    state = store.read_state(tmp_path / "empty")
    assert state is not None and state.reason.startswith("no such file") and not (tmp_path / "imported").exists()


def test_a_worker_finds_what_its_parent_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/else"])
    assert launch.search_path() == os.pathsep.join([str(tmp_path), "/else"])


def test_lm_evals_model_judges_its_folder_too(tmp_path: Path) -> None:
    path = shadow(tmp_path, "metrics.py")
    done = python(tmp_path, "-m", "bench.lm_eval_adapter", "run")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {path} takes the place of this program's own")
    assert not (tmp_path / "imported").exists()
