"""`evaluate` and `curve`: a done run is measured again, or against something that is varied, and its record says
so; what can't be done leaves the record as it was."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench import cli, curves, evaluate_again, stages, store
from bench.config import Config
from bench.console import Console
from bench.curve_arguments import CurveArguments, values_of
from bench.errors import UserError
from bench.evaluate_arguments import EvaluateArguments
from bench.picture_metrics import Pictures
from bench.sampler import Drawn
from metrics.statistics import Estimate
from reports import schema
from reports.gather import gather
from reports.schema import Record
from tests.bench.conftest import MicroRun
from tests.reports.records import record_of, settled

QUIET = Console(interval=1e9)

MISTAKES = [
    ("evaluate", "'evaluate' needs RUN, an approach, a run's folder"),
    ("evaluate dual_tower --out no/such", "no run in no/such"),
    ("evaluate x --pictures 0", "pictures is 0, expected a value from 1"),
    ("evaluate x --extractor-input 8", "extractor_input is 8, expected a value from 32 to 1024"),
    ("evaluate x --picturs 8", "did you mean --pictures?"),
    ("curve", "'curve' needs RUN"),
    ("curve x --of gidance", "--of is 'gidance': did you mean 'guidance'?"),
    ("curve x --values many", "--values is 'many', expected a list of float"),
    ("curve x --values 99999999999", "--values has 1e+11, expected at most 10,000 for --of nfe"),
    ("curve x --of guidance --values 5000", "--values has 5000, expected at most 1,000 for --of guidance"),
    ("curve x --of batch --values 0", "--values has 0, expected whole numbers from 1 for --of batch"),
    ("curve x --of batch --values 2.5", "--values has 2.5, expected whole numbers from 1 for --of batch"),
    ("curve x --of batch --values 200000", "--values has 200000, expected at most 100,000 for --of batch"),
    ("curve x --of batches", "--of is 'batches': did you mean 'batch'?"),
    ("curve dual_tower --out no/such", "no run in no/such"),
]


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_one_sentence(capsys: pytest.CaptureFixture[str], line: str, sentence: str) -> None:
    assert cli.main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and sentence in captured.err, captured.err


def test_options_that_are_given_change_the_config_and_no_other() -> None:
    config = Config()
    assert EvaluateArguments().applied(config) == config
    changed = EvaluateArguments(pictures=9, pairs=0, inception=Path("x.pth"), clip="a/b", other_texts=()).applied(
        config
    )
    evaluate = replace(config.evaluate, pictures=9, pairs=0, inception="x.pth", other_texts=())
    assert changed == replace(config, evaluate=evaluate, model=replace(config.model, clip="a/b"))


def test_another_interval_alone_is_told() -> None:
    before = record_of("modular")
    wider = replace(before.metrics["caption_gap"], low=-9.0)
    changed = evaluate_again._compared(before, replace(before, metrics={**before.metrics, "caption_gap": wider}))
    assert changed.metrics == {"caption_gap": (before.metrics["caption_gap"], wider)}
    assert evaluate_again._compared(before, before).metrics == {}


def test_guidance_one_is_always_among_the_values() -> None:
    assert values_of(CurveArguments(of="guidance", values=(3.0, 2.0, 3.0))) == (1.0, 2.0, 3.0)
    assert values_of(CurveArguments()) == (1, 2, 4, 8, 16, 32)
    assert 1.0 in values_of(CurveArguments(of="guidance"))
    assert values_of(CurveArguments(of="batch")) == (1, 4, 16)


@pytest.mark.slow
def test_a_run_measured_again_says_the_same_and_with_fewer_pictures_something_else(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = schema.load(copy)
    same = evaluate_again.again(copy, EvaluateArguments(), QUIET)
    assert same.metrics == {} and same.settings == {} and same.same > 40
    after = schema.load(copy)
    assert settled(after)["metrics"] == settled(before)["metrics"] and after.samples == before.samples
    assert after.notes[-1] == "measured again" and after.curves == before.curves
    assert after.provenance["evaluated"]["command"] and after.provenance["key"] == before.provenance["key"]
    assert evaluate_again.main(EvaluateArguments(runs=(str(copy),), pictures=3, captions=2), Config(), QUIET) == 0
    fewer = schema.load(copy)
    assert fewer.metrics["nfe"].n == 3 and fewer.metrics["caption_loss"].n == 2
    assert fewer.metrics["steps_per_second"] == before.metrics["steps_per_second"]  # training's own
    assert fewer.metrics["validation_loss"] == before.metrics["validation_loss"]
    assert fewer.config["evaluate"]["pictures"] == 3 and store.Request.read(copy).config.evaluate.pictures == 6
    assert "evaluate.pictures 6 -> 3" in fewer.notes[-1]
    (kept,) = gather([copy / evaluate_again.BEFORE]).runs
    assert kept.record == after
    evaluate_again.again(copy, EvaluateArguments(captions=3), QUIET)
    again = schema.load(copy)  # an option that is not given stays as the record has it
    assert again.metrics["nfe"].n == 3 and again.notes[-1] == "measured again: evaluate.captions 2 -> 3"
    assert all((copy / str(sample.drawn)).is_file() for sample in fewer.samples if sample.drawn)
    assert not (copy / "samples/0005.png").exists() and not (copy / evaluate_again.PLACE).exists()
    out = capsys.readouterr().out
    assert "evaluate.pictures was 6, now 3" in out and "measured again" in out


@pytest.mark.slow
def test_what_cant_be_measured_leaves_the_record_as_it_was(
    copy: Path, micro_run: MicroRun, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = (copy / schema.FILE).read_bytes()
    (copy / store.WEIGHTS).write_bytes((copy / store.WEIGHTS).read_bytes()[:1000])
    assert evaluate_again.main(EvaluateArguments(runs=(str(copy),)), Config(), QUIET) == 2
    assert "its record is as it was" in capsys.readouterr().err
    assert (copy / schema.FILE).read_bytes() == kept and not (copy / evaluate_again.PLACE).exists()
    shutil.copy(micro_run.folder / store.WEIGHTS, copy)
    for mistake, sentence in (
        ({"clip": "no/such"}, "model.clip is 'no/such', which is of no architecture that open_clip has"),
        ({"inception": copy / schema.FILE}, "can't be read as Inception-v3's weights"),
    ):
        assert evaluate_again.main(EvaluateArguments(runs=(str(copy),), **mistake), Config(), QUIET) == 2
        assert sentence in capsys.readouterr().err and (copy / schema.FILE).read_bytes() == kept
    with store.locked(copy), pytest.raises(UserError, match="is being worked on"):
        evaluate_again.again(copy, EvaluateArguments(), QUIET)


@pytest.mark.slow
def test_pictures_and_numbers_are_as_they_were_where_the_record_can_t_be_written(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[str, bytes]:
        return {str(file.relative_to(copy)): file.read_bytes() for file in copy.rglob("*") if file.is_file()}

    def full(*_: object) -> None:
        raise UserError("can't write: No space left on device")

    before = files()
    monkeypatch.setattr(schema, "save", full)
    with pytest.raises(UserError, match="No space left"):
        evaluate_again.again(copy, EvaluateArguments(pictures=3, captions=2, documents=2, extractor_input=64), QUIET)
    assert files() == before


def test_a_missing_package_is_told_before_anything_is_measured(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is to be measured: with fewer captions CIDEr would be left out without a word."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "pycocoevalcap" in name else find(name))
    with pytest.raises(UserError, match="caption_cider can't be measured: CIDEr needs pycocoevalcap"):
        evaluate_again.again(copy, EvaluateArguments(captions=2), QUIET)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("measured.json", None, "measured.json is gone: to train it anew, delete "),
        ("trained.json", None, "trained.json is gone"),
        ("weights.safetensors", None, "weights.safetensors is gone: to train it anew, delete "),
        ("trained.json", "{}", "trained.json is damaged, expected metrics, notes, budgets, frozen_hash in it"),
        ("trained.json", "[]", "trained.json is damaged"),
        ("trained.json", "{", "not readable as JSON"),
    ],
)
def test_what_is_gone_or_damaged_is_told_before_anything_is_measured(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None, sentence: str
) -> None:
    monkeypatch.setattr(stages, "measure_run", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(evaluate_again, "_check_judges", lambda *_: None)
    kept = (copy / schema.FILE).read_bytes()
    (copy / name).unlink()
    if text is not None:
        (copy / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        evaluate_again.again(copy, EvaluateArguments(), QUIET)
    assert (copy / schema.FILE).read_bytes() == kept and not (copy / evaluate_again.PLACE).exists()


def test_a_number_that_would_be_lost_is_named(copy: Path) -> None:
    before = schema.load(copy)
    missing = {**before.metrics, "clip_score": Estimate.missing("no such CLIP", better="higher")}
    evaluate_again._check_lost(before, before)
    with pytest.raises(UserError, match="it would lose clip_score: no such CLIP"):
        evaluate_again._check_lost(before, replace(before, metrics=missing))
    del missing["clip_score"]  # another extractor's names come in place of the old ones
    evaluate_again._check_lost(before, replace(before, metrics=missing))


@pytest.mark.slow
def test_text_that_has_changed_is_measured_and_told(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate_again, "changed_text", lambda *_: "other")
    monkeypatch.setattr(evaluate_again, "changed_clip", lambda *_: True)
    monkeypatch.setattr(evaluate_again, "changed_other_texts", lambda *_: True)
    fewer = EvaluateArguments(pictures=3, captions=2, documents=2, extractor_input=64)
    evaluate_again.again(copy, fewer, QUIET)
    after = schema.load(copy)
    assert after.identical.text == "other"
    told = (evaluate_again.OTHER_TEXT, evaluate_again.OTHER_TEXTS, evaluate_again.OTHER_CLIP)
    assert after.notes[-3:] == told
    monkeypatch.setattr(evaluate_again, "changed_text", lambda *_: "")
    monkeypatch.setattr(evaluate_again, "changed_clip", lambda *_: False)
    evaluate_again.again(copy, replace(fewer, other_texts=("world",)), QUIET)
    back = schema.load(copy)
    assert back.config["evaluate"]["other_texts"] == ["world"] and back.metrics["perplexity_retention_world"].value == 1
    assert "perplexity_retention_readmes" not in back.metrics and evaluate_again.OTHER_TEXTS not in back.notes
    assert back.identical.text == store.Request.read(copy).parts["text"]
    assert evaluate_again.OTHER_TEXT not in back.notes
    clip = EvaluateArguments(runs=(str(copy),), pictures=3, clip="no/such")
    assert evaluate_again.main(clip, Config(), QUIET) == 2  # whatever is said of how much
    assert "its record is as it was" in capsys.readouterr().err


@pytest.mark.slow
def test_curves_have_a_row_for_each_value_with_intervals(copy: Path) -> None:
    nfe = CurveArguments(run=str(copy), of="nfe", values=(1, 3), pictures=12)
    assert curves.main(nfe, Config(), QUIET) == 0
    assert curves.main(replace(nfe, of="guidance", values=(2.0,)), Config(), QUIET) == 0
    made = schema.load(copy).curves
    assert [row["nfe"] for row in made["nfe"]] == [1, 3] and [row["nfe_spent"] for row in made["nfe"]] == [1, 3]
    assert [row["guidance"] for row in made["guidance"]] == [1.0, 2.0]
    assert made["guidance"][0]["clip_score"] != made["guidance"][1]["clip_score"]  # each by its own scale
    kept: list[list[float]] = []
    save = schema.save

    def noted(record: Record, folder: Path) -> None:
        kept.append([row["nfe"] for row in record.curves["nfe"]])
        save(record, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "save", noted)
        assert curves.main(replace(nfe, values=(2, 3)), Config(), QUIET) == 0
    assert kept == [[2, 1, 3], [2, 3, 1], [2, 3]]  # until the last new row, the old ones stand beside them
    for row in (*made["nfe"], *made["guidance"]):
        assert row["pictures"] == 12
        for name in ("fd_efficientnet_lite0", "clip_score", "right_objects"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert "fid" not in row  # missing is missing
    assert {"loss", "validation"} < set(made)
    validation = made["validation"][-1]
    assert validation["caption_gap_low"] <= validation["caption_gap"] <= validation["caption_gap_high"]


def test_a_row_tells_what_a_picture_took_where_no_judge_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = Drawn(latents=torch.zeros(3, 4, 8, 8), first=None, nfe=[2, 4, 9], tokens=0, seconds=[(3.0, 2), (4.5, 1)])
    black = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    told: dict[str, Any] = {"captions": ("a",) * 3, "keys": ("a", "b", "c"), "scenes": (None,) * 3}
    drawn = Pictures(drawing=cost, images=black, true=black, finite=np.ones(3, dtype=bool), **told)
    asked: list[Any] = []

    def draw(*_: Any, nfe: int | None, guidance: float | None, **__: Any) -> Pictures:
        asked.append((nfe, guidance))
        return drawn

    def refuse(_: Pictures) -> dict[str, Estimate]:
        raise UserError("not here")

    monkeypatch.setattr(curves, "draw_pictures", draw)
    judges: Any = SimpleNamespace(config=Config(), features=refuse, fid=refuse, alignment=refuse, scenes=refuse)
    for of, value in (("nfe", 4.0), ("guidance", 1.5)):
        row = curves.quality(None, drawn, judges, of, value, QUIET, loud=False)  # type: ignore[arg-type]
        assert row == {"pictures": 3.0, "seconds_per_image": 2.5, "nfe_spent": 5.0}
    assert asked == [(4, None), (None, 1.5)]


@pytest.mark.slow
def test_a_curve_against_training_pictures_trains_anew_and_ends_with_the_run_itself(copy: Path) -> None:
    before = schema.load(copy)  # as `evaluate --documents 3` would leave it: all points are measured alike
    measured_anew = {**before.config, "evaluate": {**before.config["evaluate"], "documents": 3}}
    schema.save(replace(before, config=measured_anew), copy)
    images = CurveArguments(run=str(copy), of="images", values=(36,))
    assert curves.main(images, Config(), QUIET) == 0
    record = schema.load(copy)
    rows = record.curves["images"]
    assert [row["images"] for row in rows] == [36, 72]
    assert rows[-1]["validation_loss"] == record.metrics["validation_loss"].value != rows[0]["validation_loss"]
    (shorter,) = (copy.parent / curves.FOLDER).iterdir()
    request = store.Request.read(shorter)
    assert request.config.evaluate.documents == 3 != store.Request.read(copy).config.evaluate.documents
    assert request.config.train.warmup == min(1, schema.load(copy).config["train"]["warmup"])  # shrunk, but there
    assert schema.load(shorter).budgets.images == 36 and "seconds_per_image" not in rows[0]
    with pytest.raises(UserError, match="--values has 72, expected fewer than the run's own 72"):
        curves.main(replace(images, values=(72,)), Config(), QUIET)
