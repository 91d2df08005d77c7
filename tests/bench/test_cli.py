"""The frame of the command line: verbs, exit codes, speed, and what goes to which stream."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __version__, cli
from bench.config import Config
from bench.console import Console, clock
from bench.environment import ROOT
from bench.errors import UserError
from bench.listing import BACKENDS, collect
from bench.parsing import parse
from bench.presets import preset
from bench.pretrain.arguments import PretrainArguments
from bench.preview_arguments import PreviewArguments
from bench.registry import at
from bench.reproduce_arguments import ReproduceArguments
from tests.bench import startup


def words(*argv: str, kind: Any = PretrainArguments, verb: str = "pretrain") -> Any:
    return parse(kind, argv, verb=verb, program=cli.PROGRAM, configured=True)


def with_verb(monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    """Put a verb `work` into the table that calls `target`."""
    monkeypatch.setattr(cli, "at", lambda path: target if path == "work" else at(path))
    verb = cli.Verb(summary="works", target="work", arguments="bench.listing:ListArguments")
    monkeypatch.setitem(cli.VERBS, "work", verb)


@pytest.mark.alone
@pytest.mark.parametrize(
    "line", ["--help", "list", "list --json", "pretrain --help", "preview --help", "doctor --help"]
)
def test_answers_without_torch_in_half_a_second(line: str):
    assert startup.check(line, 0.5).returncode == 0


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_lists_every_verb_with_its_summary(capsys: pytest.CaptureFixture[str], flag: str):
    assert cli.main([flag]) == 0
    out = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", out, re.MULTILINE)


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_leads_somewhere(name: str):
    verb = cli.VERBS[name]
    assert callable(at(verb.target))
    assert at(verb.arguments)() == at(verb.arguments)()


@pytest.mark.parametrize("name", cli.VERBS)
def test_a_verbs_help_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: {cli.PROGRAM} {name}" in out
    assert at(cli.VERBS[name].arguments).__doc__.split("\n")[0] in " ".join(out.split())


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"bench {__version__}\n"


def test_no_verb_shows_the_help_and_is_a_mistake(capsys: pytest.CaptureFixture[str]):
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == cli.usage()


def test_fields_override_the_preset_wherever_it_stands():
    for argv in (
        ("--preset", "smoke", "--data.size", "64"),
        ("--data.size=64", "--preset=smoke"),
        ("--data.size", "32", "--preset", "tiny", "--preset", "smoke", "--data.size", "64"),
    ):
        config = words(*argv).config
        assert config.data.size == 64
        assert config.preset == "smoke"
        assert config.pretrain == preset("smoke").pretrain


def test_a_verbs_own_words_may_come_behind_those_of_the_config(tmp_path: Path):
    """The config starts from the first value behind its flag; what follows is the verb's."""
    file = tmp_path / "config.json"
    file.write_text('{"preset": "smoke", "seed": 7}')
    for given in (["--preset", "smoke"], ["--config", str(file)], ["--lm", "shipped:lm-tiny"]):
        parsed = words(*given, "lmd", kind=ReproduceArguments, verb="reproduce")
        expected = words("lmd", *given, kind=ReproduceArguments, verb="reproduce")
        assert parsed == expected and parsed.arguments.table == "lmd"
    assert parsed.config.evaluate == Config().evaluate  # the language model is no other one for it


@pytest.mark.parametrize("given", [["--approach", "dual_tower"], ["--preset", "smoke"], []])
def test_a_short_question_for_help_behind_a_value_is_one(given: list[str], capsys: pytest.CaptureFixture[str]):
    assert cli.main(["run", *given, "-h"]) == 0
    assert "usage: python -m bench run" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a Linux device that is always full")
def test_output_that_fits_nowhere_is_a_sentence_and_no_more():
    command = [sys.executable, "-m", "bench", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr == "error: a file: No space left on device\n"


def test_no_words_give_the_defaults():
    parsed = words()
    assert parsed.config == preset("tiny") == Config()
    assert parsed.arguments == PretrainArguments()


@pytest.mark.parametrize("flag", ["--pretrain.lm.kv-heads", "--pretrain.lm.kv_heads"])
def test_dashes_and_underscores_are_the_same(flag: str):
    assert words(flag, "3").config.pretrain.lm.kv_heads == 3


def test_lists_paths_switches_and_none_are_read():
    parsed = words("--only", "lm", "vae", "--out", "a b", "--pretrain.vae.channels", "8", "16", "--debug")
    assert parsed.arguments == PretrainArguments(only=("lm", "vae"), out=Path("a b"))
    assert parsed.config.pretrain.vae.channels == (8, 16)
    parsed = words("--vae", "--datasets", "folder", "--data.path", "x", kind=PreviewArguments, verb="preview")
    assert parsed.arguments.vae
    assert parsed.config.data.path == "x"
    assert words("--data.path", "None").config.data.path is None


def test_a_config_file_stands_in_for_a_preset(tmp_path: Path):
    from bench.config import to_json

    path = tmp_path / "config.json"
    path.write_text(to_json(preset("smoke")))
    config = words("--config", str(path), "--seed", "7").config
    assert config.seed == 7
    assert config.pretrain == preset("smoke").pretrain


def test_the_lists_json_has_one_schema_and_nothing_beside_it(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["list", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    sections = json.loads(captured.out)
    assert {"presets", "datasets", "text corpora", "weights", "kernels"} <= set(sections)
    for items in sections.values():
        assert items
        for item in items:
            assert set(item) == {"name", "summary", "obstacle", "runs"}
            assert item["runs"] == (not item["obstacle"])
            assert item["summary"]


def test_a_list_of_what_is_asked_for(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["list", "metrics", "preset", "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)
    assert set(sections) == {"metrics", "presets"}
    assert "heard_*" in {item["name"] for item in sections["metrics"]} and all(
        i["summary"] for i in sections["metrics"]
    )
    assert cli.main(["list", "metrix"]) == 2
    assert "nothing to list under 'metrix': did you mean 'metrics'?" in capsys.readouterr().err


def test_a_metric_that_lacks_its_weights_here_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def listed() -> dict[str, str]:
        assert cli.main(["list", "metrics", "--json"]) == 0
        return {item["name"]: item["obstacle"] for item in json.loads(capsys.readouterr().out)["metrics"]}

    monkeypatch.setenv("BENCH_INCEPTION", str(tmp_path / "weights.pth"))
    found = listed()
    assert "expected Inception-v3's weights" in found["fid"] and found["fid"] == found["kid"]
    assert found["fd_*"] == found["validation_loss"] == ""
    (tmp_path / "weights.pth").touch()
    assert listed()["fid"] == ""


def test_help_of_a_verb_is_its_own(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["help", "clean"]) == 0
    told = capsys.readouterr().out
    assert cli.main(["clean", "--help"]) == 0
    assert told == capsys.readouterr().out and "--delete" in told


def test_the_list_shows_every_name_in_plain_columns(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    for heading, items in collect():
        assert f"{heading}\n" in out
        for item in items:
            assert re.search(rf"^  {re.escape(item.name)} ", out, re.MULTILINE)
    assert "\x1b" not in out


def test_the_lists_obstacles_agree_with_torch():
    import torch

    from approaches.shared.kernels import BACKENDS as TABLE

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for backend in TABLE:
        assert bool(BACKENDS[backend.name][1]()) == bool(backend.obstacle(device)), backend.name
    assert {backend.name for backend in TABLE} | {"auto"} == set(BACKENDS)


def test_an_unexpected_error_is_ours_and_its_traceback_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def target(*_: Any) -> int:
        raise KeyError("lost\nmore")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with_verb(monkeypatch, target)
    assert cli.main(["work"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    (report,) = tmp_path.iterdir()
    assert str(report) in captured.err
    text = report.read_text()
    assert "Traceback" in text
    assert "['work']" in text
    assert cli.main(["work", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (UserError("x"), 2), (SystemExit(0), 0)])
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int):
    def target(*_: Any) -> int:
        raise error

    with_verb(monkeypatch, target)
    assert cli.main(["work"]) == code


def test_a_verbs_own_code_comes_through(monkeypatch: pytest.MonkeyPatch):
    with_verb(monkeypatch, lambda *_: 1)
    assert cli.main(["work"]) == 1


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "bench", "list"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_progress_in_plain_lines_counts_to_the_end(capsys: pytest.CaptureFixture[str]):
    with Console(interval=0.0).progress(4, "work", done=1) as progress:
        progress.advance(1, "loss 2.5")
        progress.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["work: 2/4 50%", "work: 4/4 100%", "work: 4/4 100%"]
    assert "left" in lines[0]
    assert "left" not in lines[1]
    assert all(line.endswith("loss 2.5") for line in lines)


def test_progress_says_a_line_at_most_every_interval(capsys: pytest.CaptureFixture[str]):
    with Console(interval=60.0).progress(1000, "work") as progress:
        for _ in range(1000):
            progress.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_progress_says_where_it_broke_off(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ValueError, match="stop"), Console().progress(10, "work") as progress:
        progress.advance(3)
        raise ValueError("stop")
    assert capsys.readouterr().err.startswith("work: 3/10 30%")


def test_json_keeps_stdout_for_the_value(capsys: pytest.CaptureFixture[str]):
    console = Console(as_json=True)
    console.info("text")
    console.warn("text")
    console.table("title", [("a", "b")])
    console.emit({"b": 1, "a": [None]})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": [None], "b": 1}
    assert captured.err.startswith("text\nwarning: text\ntitle\n")


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.9, 60, 3599, 3600, 90061)] == [
        "0:00", "0:59", "1:00", "59:59", "1:00:00", "25:01:01",
    ]  # fmt: skip
