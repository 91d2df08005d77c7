"""Models of a hub: at which commit they are loaded, and that a run keeps to its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from approaches.shared.hub import pinned
from approaches.shared.language_model import LanguageModel, named_hash
from approaches.shared.sources import WEIGHTS, resolve
from approaches.shared.vae import LatentCodec
from bench import cli
from bench.errors import UserError
from reports import schema
from tests.bench import stand_ins
from tests.bench.hub_server import HubServer, serving
from tests.bench.test_base import narrow


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.chdir(tmp_path)  # where no folder is called as a repository is
    with serving(monkeypatch, tmp_path / "hub-cache") as server:
        yield server


def scaled(folder: Path, to: Path, factor: float) -> Path:
    """A copy of a model with another first tensor in its first file."""
    shutil.copytree(folder, to)
    weights = min(to.glob("*.safetensors"))
    tensors = load_file(weights)
    name = min(tensors)
    save_file({**tensors, name: tensors[name] * factor}, weights, metadata={"format": "pt"})
    return to


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        pinned(resolve(text), field="model.lm")
    return str(caught.value)


def test_a_hub_id_is_loaded_at_one_commit(hub: HubServer, tmp_path: Path) -> None:
    first = hub.push("someone/lm", WEIGHTS / "lm-tiny")
    hub.tags["v1"] = first
    before = LanguageModel.load("someone/lm")
    assert before.weights_hash == f"hub:someone/lm@{first}"
    assert named_hash(before.state_dict()) == named_hash(LanguageModel.load("shipped:lm-tiny").state_dict())
    second = hub.push("someone/lm", scaled(WEIGHTS / "lm-tiny", tmp_path / "pushed", 1.5))
    after = LanguageModel.load("someone/lm")
    assert after.weights_hash == f"hub:someone/lm@{second}"
    assert named_hash(after.state_dict()) != named_hash(before.state_dict())
    for revision in ("v1", first):
        again = LanguageModel.load(f"someone/lm@{revision}")
        assert again.weights_hash == before.weights_hash
        assert named_hash(again.state_dict()) == named_hash(before.state_dict())


def test_a_vae_in_a_folder_of_a_repository_is_what_its_config_says(hub: HubServer, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "vae-tiny", tmp_path / "pipeline" / "vae")
    commit = hub.push("someone/pipeline", tmp_path / "pipeline")
    hub.tags["refs/pr/1"] = commit
    for text in ("someone/pipeline:vae", "someone/pipeline@refs/pr/1:vae"):
        codec = LatentCodec.load(text)
        assert codec.weights_hash == f"hub:someone/pipeline@{commit}:vae"
        assert named_hash(codec.state_dict()) == named_hash(LatentCodec.load("shipped:vae-tiny").state_dict())
    foreign = tmp_path / "pipeline" / "unet"
    foreign.mkdir()
    (foreign / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match=r"someone/pipeline:unet holds a UNet2DModel, expected AutoencoderKL or"):
        LatentCodec.load("someone/pipeline:unet")


def test_what_the_hub_gave_is_had_without_it(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("someone/vae", WEIGHTS / "vae-tiny")
    with_it = LatentCodec.load("someone/vae")
    asked = len(hub.asked)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert LatentCodec.load("someone/vae").weights_hash == with_it.weights_hash
    assert len(hub.asked) == asked
    said = refusal("someone/other")
    assert said.endswith("'someone/other' can't be loaded: HF_HUB_OFFLINE is set, and the local cache does not hold it")


def test_what_the_hub_lacks_is_said(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    hub.push("someone/empty", tmp_path / "empty")
    assert refusal("someone/nothing").endswith("the hub has no such model, or does not show it to you")
    assert refusal("someone/empty@v9").endswith("it has no such revision")
    assert refusal("someone/empty").endswith("there is no config.json in it")


def started(hub: HubServer, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench` in a process of its own, where nobody has imported what a loader needs."""
    environment = {**os.environ, **hub.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "line",
    [
        "run --text.path ./texts --lm someone/nothing",
        "array --text.path ./texts --vae someone/nothing",
        "sweep --text.path ./texts --approach projection --lm someone/nothing",
        "preview --vae --model.vae someone/nothing",
    ],
)
def test_a_shell_is_told_what_the_hub_lacks(hub: HubServer, line: str, tmp_path: Path) -> None:
    stand_ins.texts(tmp_path / "texts")
    ended = started(hub, *line.split())
    assert ended.returncode == 2, ended.stderr
    assert "someone/nothing' can't be loaded: the hub has no such model, or does not show it to you" in ended.stderr
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_shell_s_run_has_its_models_from_the_hub(hub: HubServer, tmp_path: Path) -> None:
    first = hub.push("someone/lm", stand_ins.language_model(tmp_path / "first"))
    second = hub.push("someone/vae", stand_ins.autoencoder(tmp_path / "vae"))
    stand_ins.texts(tmp_path / "texts")
    values = {**stand_ins.SIZES, "model.lm": "someone/lm", "model.vae": "someone/vae", "text.path": "./texts"}
    ended = started(hub, "run", "--approach", "projection", *stand_ins.flags(values), *narrow("projection"))
    assert ended.returncode == 0, ended.stderr
    (record,) = (schema.load(path.parent) for path in (tmp_path / "runs").glob("*/record.json"))
    assert record.identical.language_model == f"hub:someone/lm@{first}"
    assert record.identical.vae == f"hub:someone/vae@{second}"


@pytest.mark.slow
def test_a_run_keeps_to_the_commit_that_it_was_made_with(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.work_here(monkeypatch)
    first = hub.push("someone/lm", stand_ins.language_model(tmp_path / "first"))
    stand_ins.autoencoder(tmp_path / "vae")
    stand_ins.texts(tmp_path / "texts")
    values = {**stand_ins.SIZES, "model.lm": "someone/lm", "model.vae": "./vae", "text.path": "./texts"}
    command = ["run", "--approach", "projection", *stand_ins.flags(values), *narrow("projection")]
    assert cli.main(command) == 0, capsys.readouterr().err
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/record.json"))
    record = schema.load(folder)
    assert record.identical.language_model == f"hub:someone/lm@{first}"
    second = hub.push("someone/lm", scaled(tmp_path / "first", tmp_path / "second", 1.5))
    assert cli.main(["evaluate", str(folder)]) == 0, capsys.readouterr().err
    again = schema.load(folder)
    assert again.metrics["perplexity"] == record.metrics["perplexity"]
    assert cli.main(command) == 0, capsys.readouterr().err
    (other,) = (path.parent for path in (tmp_path / "runs").glob("*/record.json") if path.parent != folder)
    assert schema.load(other).identical.language_model == f"hub:someone/lm@{second}"


def test_the_weights_of_stand_ins_differ(tmp_path: Path) -> None:
    changed = scaled(WEIGHTS / "vae-tiny", tmp_path / "vae", 1.5)
    one, other = (load_file(next(folder.glob("*.safetensors"))) for folder in (WEIGHTS / "vae-tiny", changed))
    assert sum(not torch.equal(one[name], other[name]) for name in one) == 1
