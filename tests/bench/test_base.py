"""The preset base, whole, on stand-ins of its models' classes and its data's layouts: what can't be run at its size is
run at a small one, through the command that would run it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from approaches.registry import APPROACHES
from approaches.shared.language_model import LanguageModel
from bench import cli, stages
from bench.environment import ROOT
from bench.presets import preset
from reports import schema
from tests.bench import stand_ins


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of base on stand-ins, without an approach."""
    place = tmp_path_factory.mktemp("base")
    own = {
        "lm": stand_ins.language_model(place / "llama"),
        "vae": stand_ins.autoencoder(place / "vae"),
        "clip": stand_ins.clip(place / "clip"),
        "data.path": stand_ins.shards(place / "shards"),
        "text.path": stand_ins.wikitext(place / "wikitext"),
        "out": place / "runs",
    }
    more = {**stand_ins.SIZES, "train.accumulation": 2}
    return ["run", "--preset", "base", *stand_ins.flags({**own, **more})]


def narrow(approach: str) -> list[str]:
    """Flags that make what an approach adds small."""
    fields = {field.name for field in dataclasses.fields(APPROACHES[approach].load_settings())}
    values = {name: value for name, value in stand_ins.WIDTHS.items() if name in fields}
    return stand_ins.flags({f"settings.{name}".replace("_", "-"): value for name, value in values.items()})


def record_of(out: Path, approach: str) -> schema.Record:
    (folder,) = out.glob(f"{approach}-base-*")
    return schema.load(folder)


def held(record: schema.Record) -> None:
    """What must be true of the record, whichever approach it is of."""
    recipe = record.config["train"]
    assert record.status == "done" and record.budgets.steps == 2
    assert (recipe["beta2"], recipe["describe_share"], recipe["patch_channels"]) == (0.95, 1 / 3, 0)
    assert record.identical.details["rows"] == {"draw": 4, "describe": 2, "text": 6}
    assert record.identical.diffusion["guidance"] == 5.5
    assert "+" in record.identical.language_model  # the hash of more than one shard
    assert record.metrics["validation_loss"].value is not None and record.metrics["perplexity"].value is not None
    assert record.metrics["scene_accuracy"].value is None and record.metrics["scene_accuracy"].reason
    model = LanguageModel.load(record.config["model"]["lm"])
    text_stays = record.budgets.total is not None and record.approach != "full_retraining"
    retained = record.metrics["perplexity_retention"].value
    assert retained == 1.0 if text_stays else retained != 1.0
    assert record.budgets.borrowed["language_model"] == sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("approach", [name for name in APPROACHES if name != "dual_tower"])
def test_base_runs_whole_on_stand_ins(
    approach: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_ins.work_here(monkeypatch)
    monkeypatch.setattr(stages, "MUCH", 0)
    assert cli.main([*words, "--approach", approach, *narrow(approach)]) == 0
    told = capsys.readouterr().out
    assert told.index("on the disk: weights ") < told.index("results, with 95% intervals")
    held(record_of(Path(words[words.index("--out") + 1]), approach))


@pytest.mark.slow
def test_base_runs_whole_on_stand_ins_as_a_person_starts_it(words: list[str], own_cache: Path) -> None:
    line = [sys.executable, "-m", "bench", *words, "--approach", "dual_tower"]
    done = subprocess.run(line, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    held(record_of(Path(words[words.index("--out") + 1]), "dual_tower"))


def test_base_is_the_published_recipe() -> None:
    base = preset("base")
    tokens = base.train.batch * ((base.data.size // 8 // base.train.patch) ** 2 + 2 + base.train.caption_tokens)
    assert tokens == pytest.approx(800_000, rel=0.01)
    assert (base.diffusion.prediction, base.diffusion.time_sampling) == ("flow", "logit_normal")
    assert (base.train.amount, base.train.budget, base.diffusion.guidance) == (100_000, "steps", 5.5)
    for name in APPROACHES:
        settings = APPROACHES[name].load_settings().of_preset("base")
        assert (settings.learning_rate, settings.caption_weight) == (1e-4, 0.2)
