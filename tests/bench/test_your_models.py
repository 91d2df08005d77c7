"""docs/your-models.md, as a reader would follow it: each of its commands, on small stand-ins in a folder of its own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from approaches.registry import APPROACHES
from bench import cli, meter, stages
from bench.data.sources import dataset_of, text_of
from bench.environment import ROOT
from bench.parsing import parse, spelled_out
from bench.run_arguments import RunArguments
from metrics.statistics import Estimate
from tests.bench import stand_ins
from tests.bench.test_base import narrow

PAGE = ROOT / "docs" / "your-models.md"
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
]
PROGRAM = ["python", "-m", "bench"]
QUICK = {name: value for name, value in stand_ins.SIZES.items() if name != "data.size"}
SMALL_TEXT = {"text.path": "./my-texts"}  # pydocs takes minutes to read


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the things that the page calls mine."""
    folder = tmp_path_factory.mktemp("mine")
    stand_ins.language_model(folder / "my-lm")
    stand_ins.autoencoder(folder / "my-vae")
    stand_ins.clip(folder / "my-clip")
    stand_ins.pictures(folder / "my-pictures")
    stand_ins.shards(folder / "my-shards")
    stand_ins.texts(folder / "my-texts")
    stand_ins.wikitext(folder / "my-wikitext")
    (folder / "my-prompts.txt").write_text("a photo of thing 3\n\na photo of thing 4\n")
    return folder


def small_flags(words: list[str]) -> list[str]:
    """What a test adds to a command of the page, so that it is done in seconds."""
    if "--help" in words or words[0] not in ("run", "plan"):
        return []
    added = {**QUICK, **({} if "--text.path" in words else SMALL_TEXT)}
    approach = words[words.index("--approach") + 1]
    return [*stand_ins.flags(added), *narrow(approach)]


def test_the_page_speaks_of_everything_that_can_be_brought() -> None:
    told = " ".join(COMMANDS)
    for thing in (
        "my-lm",
        "my-vae",
        "my-clip",
        "my-pictures",
        "my-shards",
        "my-texts",
        "my-wikitext",
        "my-prompts.txt",
    ):
        assert f"./{thing}" in told
    assert all(shlex.split(line)[:3] == PROGRAM for line in COMMANDS)


@pytest.mark.slow
def test_every_command_of_the_page_does_what_it_says(
    place: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    stand_ins.work_here(monkeypatch)
    for line in COMMANDS:
        words = shlex.split(line)[3:]
        assert cli.main([*words, *small_flags(words)]) == 0, f"{line}\n{capsys.readouterr().err}"
    runs = sorted(path.parent.name for path in (place / "runs").glob("*/record.json"))
    assert len(runs) == sum(" run " in line and "--help" not in line for line in COMMANDS)
    assert len(list((place / "my-drawings").glob("0*.png"))) == 4
    assert (place / "drawn" / "grid.png").exists() and any((place / "previews").iterdir())


def test_short_flags_mean_the_long_ones() -> None:
    words = ["--lm", "package:smollm2", "--vae=shipped:vae-tiny", "--approach", next(iter(APPROACHES))]
    parsed = parse(RunArguments, words, verb="run", program=cli.PROGRAM, configured=True)
    assert (parsed.config.model.lm, parsed.config.model.vae) == ("package:smollm2", "shipped:vae-tiny")
    assert spelled_out(["--lmx", "--clip"]) == ["--lmx", "--model.clip"]
    assert spelled_out(["--vae", "--lm"], {"--vae"}) == ["--vae", "--model.lm"]  # preview has a --vae of its own


def test_what_lies_at_a_path_decides_how_it_is_read(place: Path) -> None:
    found = {name: dataset_of("shapes", str(place / name)) for name in ("my-pictures", "my-shards", "my-wikitext")}
    assert found == {"my-pictures": "folder", "my-shards": "webdataset", "my-wikitext": "hub"}
    assert dataset_of("shapes", str(place / "my-shards" / "cc-val-000.tar")) == "webdataset"
    assert dataset_of("shapes", str(place / "nowhere")) == "" == dataset_of("emoji", str(place / "my-shards"))
    assert dataset_of("webdataset", str(place / "my-pictures")) == "folder"  # preset base's own is webdataset
    assert text_of(str(place / "my-texts")) == "folder" and text_of(str(PAGE)) == "file"
    assert text_of(str(place / "my-wikitext")) == "hub" and text_of("nowhere") == "" == text_of(None)


def test_a_name_that_is_given_stands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--data.name", "shapes", "--data.path", str(place / "my-shards")]) == 2
    assert "dataset 'shapes' is generated and reads no path" in capsys.readouterr().err


def test_a_machine_s_peak_is_the_better_of_two_looks_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stand_ins.work_here(monkeypatch)
    looks = iter((1e12, 3e12))  # before training, perhaps beside other work, and after
    monkeypatch.setattr(stages, "peak_flops", lambda *_, **__: next(looks))
    heard: list[float] = []

    def mfu(steps_per_second: Estimate, flops: float, peak: float) -> Estimate:
        heard.append(peak)
        return meter.mfu(steps_per_second, flops, peak)

    monkeypatch.setattr(stages, "mfu", mfu)
    models = {
        "model.lm": stand_ins.language_model(tmp_path / "lm"),
        "model.vae": stand_ins.autoencoder(tmp_path / "vae"),
    }
    sizes: dict[str, object] = {
        **stand_ins.SIZES,
        **models,
        "text.path": stand_ins.texts(tmp_path / "texts"),
        "out": tmp_path / "runs",
    }
    assert cli.main(["run", "--approach", "projection", *stand_ins.flags(sizes), *narrow("projection")]) == 0
    assert heard == [3e12]
