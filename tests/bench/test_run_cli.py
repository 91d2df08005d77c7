"""`run`, `generate`, `caption` and `complete` as a person types them: mistakes get a sentence before torch is imported,
and what one real run leaves is whole and can be used."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bench
from approaches.registry import APPROACHES
from approaches.settings import DualTowerSettings
from approaches.shared.language_model import LanguageModel
from bench import cli, hands_on, stages, store
from bench.array_arguments import ArrayArguments, points
from bench.config import Config
from bench.console import Console
from bench.data.shapes import Shapes
from bench.errors import UserError
from bench.hands_on_arguments import GenerateArguments
from bench.parsing import parse
from bench.presets import preset
from bench.run_arguments import RunArguments
from reports import schema
from tests.bench import ways
from tests.bench.conftest import MicroRun

MISTAKES = [
    ("run --approach dual_towr", "unknown approach 'dual_towr': did you mean 'dual_tower'?"),
    ("run --approach", "--approach names none, expected one or more of: full_retraining, "),
    ("run --approach al", "unknown approach 'al': did you mean 'all'?"),
    ("run --settings.variant gated", "--settings.variant is no setting that all of full_retraining, dual_tower, "),
    ("run --approach all --settings.variant=gated", "name one approach, such as --approach full_retraining"),
    ("run --approach modular projection --settings.queries 8", "they have in common learning_rate, caption_weight"),
    ("run --settings.learning-rate 20", "settings.learning_rate is 20.0, expected a value above 0"),
    ("run --settings.learning-rate None", "--settings.learning-rate is 'None', expected a value for all"),
    ("run --settings.learning-rate fast", "--settings.learning-rate is 'fast', expected float"),
    ("run --settings.learning-rat 1", "--settings.learning-rat is no setting that all of"),
    ("run --approach dual_tower --settings.variant gatd", "--settings.variant is 'gatd': did you mean 'gated'?"),
    ("run --approach dual_tower --settings.varant gated", "did you mean --settings.variant?"),
    ("run --approach dual_tower --settings.queries 3", "'run' has no option --settings.queries"),
    ("run --approach dual_tower --settings.learning-rate 20", "settings.learning_rate is 20.0, expected a value above"),
    ("run --approach dual_tower --settings.learning-rate nan", "settings.learning_rate is nan, expected"),
    ("run --approach projection --settings.queries 0", "settings.queries is 0, expected a value from 1"),
    ("run --approach projection --settings.queries many", "--settings.queries is 'many', expected int"),
    ("run --approach dual_tower --settings", "--settings is a group of options"),
    ("run --seeds 0", "seeds is 0, expected a value from 1 to 10000"),
    ("run --out README.md", "--out README.md is a file, expected a folder"),
    ("run --train.patch 3", "data.size is 32, expected a multiple of 12: 'shipped:vae-tiny' shrinks pictures by 4"),
    ("run --model.lm nowhere", "model.lm is 'nowhere'"),
    ("run --evaluate.extractor efficientnet", "did you mean 'efficientnet_lite0'?"),
    ("run --evaluate.inception no/file", "evaluate.inception is 'no/file': no such file, expected Inception-v3's"),
    (
        "run --approach dual_tower --settings.words frozen --settings.words-learning-rate-ratio 3",
        "settings.words_learning_rate_ratio is a rate of a copy of the words, and settings.words frozen has none: ",
    ),
    ("run --approach full_retraining --settings.variant lora --settings.start scratch", "settings.variant lora trains"),
    ("run --approach dual_tower --settings.fuse --settings.variant gated", "settings.fuse mixes the outputs"),
    ("run --approach modular --settings.width 5", "settings.width is 5, expected a multiple of 4 and of"),
    ("run --approach projection --settings.heads 5", "settings.width is 192, expected a multiple of 4 and of"),
    ("run --model.encoder efficientnet", "extractor 'efficientnet': did you mean 'efficientnet_lite0'?"),
    ("run --data.name folder --data.path no/such", "no/such"),
    ("run --train.budget imges", "--train.budget is 'imges': did you mean 'images'?"),
    ("run --train.budget steps", "still the 10800 images of before: expected an amount of steps, too, such as 450 for"),
    ("run --train.budget=flops --preset smoke", "expected an amount of flops, too; `plan` tells what a run takes"),
    ("run --train.budget seconds", "train.budget is seconds, and train.amount is still the 10800 images of before: "),
    ("run --train.budget flops --train.batch 0", "train.budget is flops, and train.amount is still the 10800 images"),
    ("run stray", "'run' can't place 'stray'"),
    ("generate", "'generate' needs RUN, an approach, a run's folder, or the beginning of its name or key, and"),
    ("generate dual_tower x --out no/such", "no run in no/such: python -m bench run --out no/such makes some"),
    ("generate dual_tower x --nfe 0", "nfe is 0, expected a value from 1"),
    ("generate dual_tower x --guidance -2", "guidance is -2.0, expected a value from 0"),
    ("complete dual_tower x --tokens 0", "tokens is 0, expected a value from 1"),
    ("caption dual_tower x.png --temprature 1", "did you mean --temperature?"),
]  # fmt: skip

JUDGED = (
    "import sys; from bench.cli import main; code = main(sys.argv[1:]);"
    "sys.exit(99 if {'torch', 'transformers', 'diffusers'} & set(sys.modules) else code)"
)


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_one_sentence(capsys: pytest.CaptureFixture[str], line: str, sentence: str):
    assert cli.main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and sentence in captured.err, captured.err


@pytest.mark.parametrize(
    "line",
    ["run --approach dual_tower --settings.variant gatd", "run --train.patch 3", "generate x y --out no", "run --help"],
)
def test_it_is_judged_before_torch_is_imported(line: str):
    done = subprocess.run([sys.executable, "-c", JUDGED, *line.split()], capture_output=True, text=True)
    assert done.returncode == (0 if "--help" in line else 2), done.stderr


def words(*argv: str, kind: Any = RunArguments) -> Any:
    return parse(kind, argv, verb="run", program=cli.PROGRAM, configured=issubclass(kind, RunArguments))


def test_settings_start_from_the_presets_and_the_words_change_them():
    parsed = words("--settings.words", "frozen", "--preset", "smoke", "--approach=dual_tower", "--settings.fuse")
    assert parsed.arguments.settings_for("dual_tower", parsed.config) == DualTowerSettings(words="frozen", fuse=True)
    assert parsed.config == preset("smoke")
    every = words()
    for name in APPROACHES:
        kind = APPROACHES[name].load_settings()
        assert every.arguments.settings_for(name, Config()) == kind.of_preset("tiny")
        one = words("--approach", name).arguments
        assert one.settings_for(name, Config()) == kind.of_preset("tiny")


@pytest.mark.parametrize("flags", [("--lm", "/x"), ("--model.lm=/x",)])
def test_beside_another_language_model_what_only_the_shipped_one_knows_is_left_out(flags: tuple[str, ...]):
    for argv in (flags, (*flags, "--approach", "modular")):
        parsed = words(*argv)
        assert (parsed.config.model.lm, parsed.config.evaluate.other_texts) == ("/x", ("readmes",))
        assert parsed.arguments.settings_for("modular", parsed.config).plan_examples == 4
    asked = words(*flags, "--evaluate.other-texts", "world", "--approach", "modular", "--settings.plan-examples", "1")
    assert asked.config.evaluate.other_texts == ("world",)
    assert asked.arguments.settings_for("modular", asked.config).plan_examples == 1
    for argv in ((), ("--lm", "shipped:lm-tiny"), ("--preset", "small", "--lm", "shipped:lm-tiny")):
        parsed = words(*argv)
        assert "world" in parsed.config.evaluate.other_texts or parsed.config.preset == "small"
        assert parsed.arguments.settings_for("modular", parsed.config).plan_examples == 0
    assert words("--preset", "small").arguments.settings_for("modular", preset("small")).plan_examples == 4


def test_a_files_texts_are_its_own_beside_any_language_model(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"preset": "tiny", "model": {"lm": "shipped:lm-tiny"}}))
    parsed = words("--config", str(file), "--lm", "/x")
    assert (parsed.config.model.lm, parsed.config.evaluate.other_texts) == ("/x", ("readmes", "world"))
    assert parsed.arguments.settings_for("modular", parsed.config).plan_examples == 4


def test_what_several_have_in_common_is_set_for_all_and_each_keeps_the_rest():
    parsed = words("--settings.learning-rate", "2e-3", "--preset", "small")
    for name in APPROACHES:
        usual = APPROACHES[name].load_settings().of_preset("small", other_lm=True)
        assert usual.learning_rate != 2e-3
        wanted = replace(usual, learning_rate=2e-3)
        assert parsed.arguments.settings_for(name, parsed.config) == wanted
        alone = words("--approach", name, "--settings.learning-rate", "2e-3", "--preset", "small")
        assert alone.arguments.settings_for(name, alone.config) == wanted
    both = words("--approach", "modular", "projection", "--settings.width", "96").arguments
    assert [both.settings_for(name, Config()).width for name in ("modular", "projection")] == [96, 96]
    (first, *_) = points(words("--settings.learning-rate", "2e-3", kind=ArrayArguments).arguments, Config())
    assert first.settings.learning_rate == 2e-3


def test_a_strangers_settings_are_flags_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ways.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    parsed = words("--approach", "good", "--settings.depth", "7")
    assert parsed.arguments.settings_for("good", Config()).depth == 7
    assert cli.main(["run", "--approach", "good", "--settings.depth", "70"]) == 2
    assert "settings.depth is 70, expected a value from 1 to 9" in capsys.readouterr().err


def test_prompts_stand_without_a_flag_wherever_the_options_are():
    for line in (["r", "a b", "c", "--nfe", "3"], ["--nfe", "3", "r", "a b", "c"]):
        arguments = words(*line, kind=GenerateArguments).arguments
        assert (arguments.run, arguments.texts, arguments.nfe) == ("r", ("a b", "c"), 3)


# ---------------------------------------------------------------------------------------------------- one real run


@pytest.mark.slow
def test_the_record_of_a_run_is_whole(micro_run: MicroRun):
    record = schema.load(micro_run.folder)
    assert (record.status, record.approach, record.name) == ("done", "dual_tower", micro_run.folder.name)
    spent, same = record.budgets, record.identical
    assert (spent.steps, spent.images) == (12, 72)
    assert spent.flops == 12 * (spent.flops_per_step or math.nan) > 0
    assert spent.total and spent.trainable and spent.active and spent.total >= spent.active > 0
    assert set(spent.borrowed) == {"language_model", "vae"}
    assert all((same.data, same.text, same.vae, same.language_model, same.batches, same.noise, same.kernels))
    assert same.diffusion["nfe"] == 2
    assert [row["step"] for row in record.curves["validation"]] == [6, 12]
    assert record.curves["loss"][-1]["step"] == 12
    # What stands in the curve was taken of the weights in memory, the metric of those read from the file.
    last = record.curves["validation"][-1]["validation_loss"]
    assert record.metrics["validation_loss"].value == pytest.approx(last, rel=1e-5)
    assert record.metrics["perplexity_retention"].value == 1.0
    assert record.metrics["kl_base_adapted"].value == 0.0
    steps, images, tokens, mfu, peak, gap = (
        record.metrics[name].value
        for name in (
            "steps_per_second", "images_per_second", "tokens_per_second", "mfu", "peak_memory_bytes", "caption_gap",
        )
    )  # fmt: skip
    assert steps is not None and steps > 0 and images == pytest.approx(6 * steps)
    # a row is 16 patches and a caption between its two ends, of which all that training has are meant
    model = LanguageModel.load("shipped:lm-tiny")
    captions = [words for each in Shapes.build(micro_run.config.data, "train").first(48) for words in each.captions]
    row = 16 + np.mean([2 + len(model.encode(words)) for words in captions])
    assert tokens == pytest.approx(6 * steps * row)
    assert mfu is None or 0 < mfu < 1
    assert peak is not None and peak > 0 and gap is not None
    assert set(record.seconds) >= {"prepare", "train", "measured"}
    assert record.provenance["sources"] and record.provenance["key"]["data"] == same.data


@pytest.mark.slow
def test_every_picture_that_a_record_names_is_there(micro_run: MicroRun):
    record = schema.load(micro_run.folder)
    assert len(record.samples) == 6
    assert {"drawn", "described", "forward", "reverse"} <= set(record.sheets)
    for sample in record.samples:
        for path in (sample.true, sample.drawn):
            assert path is not None and size(micro_run.folder / path) == (32, 32)
    assert [sample.caption is None for sample in record.samples] == [False] * 5 + [True]
    for name in ("drawn", "described"):
        assert min(size(micro_run.folder / record.sheets[name])) > 100
    # Three pictures at six times, with a gap between: the clean ones first, and last what the sampler ends with.
    assert size(micro_run.folder / record.sheets["forward"]) == (6 * 34 - 2, 3 * 34 - 2)
    width, height = size(micro_run.folder / record.sheets["reverse"])
    assert (width + 2) % 34 == 0 and height == 3 * 34 - 2
    for name in ("forward", "reverse"):
        with Image.open(micro_run.folder / record.sheets[name]) as image:
            assert "t = " in image.info["Description"]
    with Image.open(micro_run.folder / record.sheets["reverse"]) as strip:  # which ends with what was drawn
        for row, sample in enumerate(record.samples[:3]):
            last = np.asarray(strip.crop((width - 32, row * 34, width, row * 34 + 32)), dtype=int)
            with Image.open(micro_run.folder / str(sample.drawn)) as drawn:
                assert np.abs(last - np.asarray(drawn, dtype=int)).max() <= 2


@pytest.mark.slow
def test_a_run_ends_with_a_report_of_itself_beside_it(micro_run: MicroRun):
    page = (micro_run.out / "report.html").read_text()
    assert micro_run.folder.name in page and "How noise becomes a picture" in page
    assert {"report.md", "results.csv", "results.json"} <= {path.name for path in micro_run.out.iterdir()}


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.slow
def test_one_system_draws_describes_and_continues(micro_run: MicroRun, tmp_path: Path):
    trained = bench.load("dual_tower", micro_run.out)
    prompts = ["a red circle", "two blue squares"]
    first, second = (trained.generate(prompts, seed=3) for _ in range(2))
    assert [np.asarray(a).tolist() for a in first] == [np.asarray(b).tolist() for b in second]
    assert all(image.size == (32, 32) and image.mode == "RGB" for image in first)
    assert np.asarray(first[0]).tolist() != np.asarray(trained.generate(prompts, seed=4)[0]).tolist()
    # Another batch has other roundings, which eight bits hardly show.
    alone = np.asarray(trained.generate("a red circle", seed=3)[0]).astype(int)
    assert np.abs(alone - np.asarray(first[0])).max() <= 1
    for other in ({"nfe": 4}, {"guidance": 50.0}):
        changed = trained.generate(prompts, seed=3, **other)
        assert np.asarray(changed[0]).tolist() != np.asarray(first[0]).tolist(), other
    # A picture is the same picture in any mode, from memory or from a file.
    picture = Image.new("RGB", (50, 70), (250, 0, 0))
    picture.save(tmp_path / "red.png")
    captions = trained.caption([picture, picture.convert("RGBA"), tmp_path / "red.png", np.asarray(picture)])
    assert len(set(captions)) == 1
    # It continues text as the frozen language model that it started from.
    model = trained.approach.shared.language_model
    assert trained.complete("Return the first", tokens=8) == model.continue_text("Return the first", tokens=8)
    warm = [trained.complete("Return", tokens=8, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    with pytest.raises(UserError, match="don't fit into the language model's"):
        trained.complete("x", tokens=100_000)
    with pytest.raises(UserError, match="can't be used"):
        trained.caption(__file__)
    for asked, sentence in (
        (lambda: trained.generate("a", guidance=-1.0), "guidance is -1.0, expected a value from 0 to 1000"),
        (lambda: trained.generate("a", nfe=0), "nfe is 0, expected a value from 1"),
        (lambda: trained.caption(picture, temperature=float("nan")), "temperature is nan, expected"),
        (lambda: trained.complete("x", tokens=-5), "tokens is -5, expected a value from 1"),
    ):
        with pytest.raises(UserError, match=sentence):
            asked()


@pytest.mark.slow
def test_the_same_from_the_shell(micro_run: MicroRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, to = ["--out", str(micro_run.out), "--json"], tmp_path / "drawn"
    assert cli.main(["generate", "dual_tower", "a circle", "a square", "--count", "2", "--to", str(to), *out]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["prompt"] for row in told["pictures"]] == ["a circle", "a circle", "a square", "a square"]
    assert sorted(path.name for path in to.iterdir()) == [
        "000.png", "001.png", "002.png", "003.png", "grid.png", "metadata.jsonl"
    ]  # fmt: skip
    assert cli.main(["caption", micro_run.folder.name, str(to / "000.png"), *out]) == 0
    (row,) = json.loads(capsys.readouterr().out)["captions"]
    assert row["caption"] == bench.load(micro_run.folder).caption(to / "000.png")[0]
    assert cli.main(["complete", str(micro_run.folder), "Return the", "--tokens", "4", *out]) == 0
    (row,) = json.loads(capsys.readouterr().out)["texts"]
    assert row["continuation"] and row["text"] == "Return the"


@pytest.mark.slow
def test_what_the_shell_says_is_what_is_asked(
    micro_run: MicroRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every number of `generate`, `caption` and `complete` reaches the method of its name."""
    asked: list[dict[str, Any]] = []

    def noted(answer: Any) -> Any:
        def method(self: Any, things: Any, **how: Any) -> Any:
            asked.append({name: value for name, value in how.items() if name != "progress"})
            return answer

        return method

    monkeypatch.setattr(hands_on.Trained, "generate", noted([Image.new("RGB", (32, 32))]))
    monkeypatch.setattr(hands_on.Trained, "caption", noted(["a circle"]))
    monkeypatch.setattr(hands_on.Trained, "complete", noted(" more"))
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    run, to = str(micro_run.folder), str(tmp_path / "to")
    for words in (
        ["generate", run, "a circle", "--to", to, "--seed", "5", "--nfe", "3", "--guidance", "7"],
        ["caption", run, str(tmp_path / "one.png"), "--seed", "5", "--temperature", "1.5"],
        ["complete", run, "Return", "--seed", "5", "--temperature", "1.5", "--tokens", "9"],
    ):
        assert cli.main(words) == 0
    assert asked == [
        {"seed": 5, "nfe": 3, "guidance": 7.0},
        {"seed": 5, "temperature": 1.5},
        {"seed": 5, "temperature": 1.5, "tokens": 9},
    ]


@pytest.mark.parametrize("left", [stages.TRAINED, stages.MEASURED])
@pytest.mark.parametrize("part", ["data", "text", "other texts", "model.clip"])
def test_what_is_read_must_be_what_the_run_was_asked_for_with(copy: Path, left: str, part: str):
    """A queue may have held it for days: before it is trained, and again before it is measured."""
    for name in (stages.TRAINED, stages.MEASURED)[(stages.TRAINED, stages.MEASURED).index(left) :]:
        (copy / name).unlink()
    path = copy / store.REQUEST
    request = json.loads(path.read_text())
    path.write_text(json.dumps({**request, "parts": {**request["parts"], part: "of another day"}}))
    with pytest.raises(UserError, match=f"is no longer what run {copy.name} was made with, .*: put that back, or make"):
        stages.work(copy, Console(interval=1e9))
    assert not (copy / left).exists()
