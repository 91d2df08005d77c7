"""The ledger of skips can fail, and fails only for what is not on its list."""

from __future__ import annotations

from pathlib import Path

import pytest

SKIPPING = """
import pytest

def test_work():
    pass

def test_called():
    pytest.skip("{reason}")

@pytest.mark.skipif(True, reason="{reason}")
def test_marked():
    pass
"""


def run(pytester: pytest.Pytester, allowed: str, **modules: str) -> pytest.RunResult:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    (pytester.path / "skips.txt").write_text(allowed, encoding="utf-8")
    pytester.makepyfile(**modules)
    return pytester.runpytest_inprocess("-p", "no:benchmark")


@pytest.mark.parametrize("allowed", ["needs a GPU", "# comment\n\nneeds a G"])
def test_a_listed_reason_or_its_beginning_passes(pytester: pytest.Pytester, allowed: str) -> None:
    result = run(pytester, allowed, test_it=SKIPPING.format(reason="needs a GPU"))
    result.assert_outcomes(passed=1, skipped=2)
    assert result.ret == 0


def test_an_unlisted_reason_fails_and_is_named(pytester: pytest.Pytester) -> None:
    result = run(pytester, "needs a GPU", test_it=SKIPPING.format(reason="flaky today"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*skips that*", "test_it.py::test_called: flaky today", "*::test_marked: flaky today"])


def test_a_whole_module_that_skips_is_seen(pytester: pytest.Pytester) -> None:
    module = "import pytest\npytest.skip('no such package', allow_module_level=True)"
    result = run(pytester, "", test_it="def test_work(): pass", test_other=module)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["test_other.py: no such package"])


def test_a_comment_allows_nothing(pytester: pytest.Pytester) -> None:
    assert run(pytester, "# flaky today", test_it=SKIPPING.format(reason="flaky today")).ret == 1


def test_an_expected_failure_is_no_skip(pytester: pytest.Pytester) -> None:
    module = "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_it(): assert False"
    assert run(pytester, "", test_it=module).ret == 0


def test_a_failing_run_stays_a_failure(pytester: pytest.Pytester) -> None:
    assert run(pytester, "flaky", test_it="def test_it(): assert False").ret == pytest.ExitCode.TESTS_FAILED
