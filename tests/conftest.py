"""What all tests share: no network, a cache of their own, and the ledger of skips."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; a test never asks a hub
os.environ["HF_DATASETS_OFFLINE"] = "1"

import hypothesis
import pytest

import bench.torchvision_guard  # noqa: F401  before any test imports timm, transformers or open_clip

pytest_plugins = ["pytester"]
for _name in ("NO_PROXY", "no_proxy"):  # tests' own servers are on this machine
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1", "localhost")))
SKIPS = Path(__file__).parent / "skips.txt"

# The same examples every time: a new counterexample belongs to a person's session, not to somebody else's CI.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


class SkipLedger:
    """Fails a run in which a test skipped for a reason that is not on the list.

    allowed: exact reasons or their beginnings. A skip is work not done; this keeps it from passing as success.
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self.allowed = allowed
        self.foreign: list[str] = []

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = text.removeprefix("Skipped: ").strip()
        if not any(reason.startswith(beginning) for beginning in self.allowed):
            self.foreign.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Pytest's hook: one phase of one test."""
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Pytest's hook: one module, which may skip as a whole."""
        self._note(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Pytest's hook: turn success into failure."""
        if self.foreign and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Pytest's hook: say which."""
        if self.foreign:
            terminalreporter.section("skips that tests/skips.txt doesn't allow", red=True)
            for line in self.foreign:
                terminalreporter.line(line)


def allowed_skips(path: Path) -> tuple[str, ...]:
    """The lines of a skip list, without comments."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def pytest_configure(config: pytest.Config) -> None:
    """Start the ledger."""
    config.pluginmanager.register(SkipLedger(allowed_skips(SKIPS)), "skip-ledger")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is to run alone is marked in its own file by `mark.alone`: `make test` finds it by this spelling."""
    for item in items:
        if item.get_closest_marker("alone") and "mark.alone" not in item.path.read_text(encoding="utf-8"):
            raise pytest.UsageError(f"{item.nodeid} is to run alone, and {item.path.name} has no mark.alone in it")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Derived files of the tests go to a folder of their own, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("BENCH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def small_inception() -> Iterator[None]:
    """Inception-v3 that resizes to 75 pixels instead of 299, in every library: the same code in a sixteenth of time."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)
        yield


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception-v3 with weights drawn at random: the official ones come with no package."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with pytest.MonkeyPatch.context() as patch:
        generator = torch.Generator().manual_seed(0)
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["64"])
    state = {
        name: torch.randn(value.shape, generator=generator) * 0.1 if value.ndim > 1 else value
        for name, value in network.state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path
