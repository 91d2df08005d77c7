"""What a config only names is in a run's key, and a run whose models, pictures or text are others by now says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from approaches.settings import DualTowerSettings
from approaches.shared.sources import beside, resolve
from bench import store
from bench.config import Config
from bench.contents import changed_clip, changed_text, check_data, check_models, check_weights, contents, unchanged
from bench.errors import UserError
from tests.bench import stand_ins, ways


def pictures(folder: Path) -> None:
    """200 captioned pictures, each of its own grey: enough for some of each split."""
    folder.mkdir()
    rows = []
    for number in range(200):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": f"picture {number}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def of_pictures(config: Config, path: str) -> Config:
    return replace(config, data=replace(config.data, name="folder", path=path))


def request_of(config: Config) -> store.Request:
    return store.request(config, "dual_tower", DualTowerSettings(), contents(config, lambda _: None))


def test_contents_follow_pictures_captions_text_and_weights(tmp_path: Path):
    pictures(tmp_path / "pictures")
    config = of_pictures(ways.micro(tmp_path / "words"), str(tmp_path / "pictures"))
    before = contents(config, lambda _: None)
    assert before == contents(config, lambda _: None)
    models = {f"model.{name}{what}" for name in ("lm", "vae", "clip") for what in ("", " files")}
    assert set(before) == {"data", "text", "other texts"} | models
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(tmp_path / "pictures" / "7.png")
    after = contents(config, lambda _: None)
    assert {name for name in before if before[name] != after[name]} == {"data"}
    words = tmp_path / "words" / "words.jsonl"
    words.write_text(words.read_text().replace("document 7 says", "document 7 said"))
    last = contents(config, lambda _: None)
    assert {name for name in after if after[name] != last[name]} == {"text"}


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_models_config_and_tokenizer_are_in_the_key(tmp_path: Path, file: str):
    stand_ins.language_model(tmp_path / "lm")
    config = ways.micro(tmp_path / "words")
    config = replace(config, model=replace(config.model, lm=str(tmp_path / "lm")))
    before = request_of(config)
    (tmp_path / "lm" / "README.md").write_text("mine")
    assert request_of(config).key == before.key
    changed = tmp_path / "lm" / file
    changed.write_text(changed.read_text() + "\n")
    after = request_of(config)
    assert after.key != before.key
    assert {name for name in after.parts if after.parts[name] != before.parts[name]} == {"model.lm files"}


@pytest.mark.parametrize("file", ["LICENSE.txt", "trainer_state.json", "._config.json", "requirements.txt", "a.json/b"])
def test_what_decides_nothing_of_a_model_is_in_no_key(tmp_path: Path, file: str):
    stand_ins.language_model(tmp_path / "lm")
    source = resolve(str(tmp_path / "lm"))
    before = beside(source)
    (tmp_path / "lm" / file).parent.mkdir(exist_ok=True)
    (tmp_path / "lm" / file).write_text("mine")
    assert before and beside(source) == before


def test_a_run_whose_models_pictures_or_text_have_changed_says_which(tmp_path: Path):
    pictures(tmp_path / "pictures")
    stand_ins.language_model(tmp_path / "lm")
    config = of_pictures(ways.micro(tmp_path / "words"), str(tmp_path / "pictures"))
    config = replace(config, model=replace(config.model, lm=str(tmp_path / "lm")))
    request = request_of(config)
    weights = {name: request.parts[f"model.{name}"] for name in ("lm", "vae")}
    check_models(request)
    check_weights(request, weights)
    check_data(request)
    assert changed_text(request, print) == "" and not changed_clip(request)
    with pytest.raises(
        UserError, match=f"model.vae 'shipped:vae-tiny' is no longer what run {request.name} was made with"
    ):
        check_weights(request, {**weights, "vae": "others"})
    older = {name: value for name, value in request.parts.items() if not name.endswith(" files")}
    tokenizer = tmp_path / "lm" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(UserError, match=f"model.lm '.*lm' is no longer what run {request.name} was made with"):
        check_models(request)
    check_models(replace(request, parts=older))  # that one was made before tokenizers were in the key
    words = tmp_path / "words" / "words.jsonl"
    words.write_text(words.read_text().replace("document 7 says", "document 7 said"))
    assert changed_text(request, print) == request_of(config).parts["text"] != request.parts["text"]
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(tmp_path / "pictures" / "7.png")
    with pytest.raises(UserError, match="the data '.*pictures' is no longer"):
        check_data(request)
    with pytest.raises(UserError, match="model.lm is no longer|data is no longer|text is no longer"):
        unchanged(request, print)
    now = request_of(config)
    assert unchanged(now, print) == {part: now.parts[part] for part in contents(config, print)}
    for part in ("data", "text", "model.lm", "model.vae files"):
        with pytest.raises(UserError, match=f"{part.removesuffix(' files')} is no longer what run"):
            unchanged(replace(now, parts={**now.parts, part: "others"}), print)
    assert changed_clip(replace(request, parts={**request.parts, "model.clip": "others"}))


def test_paths_that_are_not_used_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    request = request_of(of_pictures(ways.micro(tmp_path / "words"), "pictures"))
    monkeypatch.chdir(tmp_path / "here")
    check_models(request)
    with pytest.raises(UserError, match="data.path of run .* is 'pictures', which leads to nothing from here"):
        check_data(request)


def test_a_relative_path_that_leads_nowhere_from_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for place in ("there", "here"):
        (tmp_path / place).mkdir()
    stand_ins.language_model(tmp_path / "there" / "models" / "lm")
    monkeypatch.chdir(tmp_path / "there")
    config = ways.micro(tmp_path / "words")
    request = request_of(replace(config, model=replace(config.model, lm="models/lm")))
    check_models(request)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="model.lm of run .* is 'models/lm', which leads to nothing from here.*there"):
        check_models(request)
    shutil.copytree(tmp_path / "there" / "models", tmp_path / "here" / "models")  # a project that was copied
    check_models(request)


def test_a_request_of_before_its_folder_was_kept_is_read(tmp_path: Path):
    request = request_of(ways.micro(tmp_path / "words"))
    request.write(tmp_path)
    values = json.loads((tmp_path / store.REQUEST).read_text())
    assert values.pop("folder") == str(Path.cwd())
    (tmp_path / store.REQUEST).write_text(json.dumps(values))
    read = store.Request.read(tmp_path)
    assert read == replace(request, folder="")
    check_models(read)


def test_judging_a_run_needs_no_torch(tmp_path: Path):
    ways.micro(tmp_path)
    code = (
        "import sys; from pathlib import Path; from bench import contents, runner; from tests.bench import ways;"
        f"contents.contents(ways.micro(Path({str(tmp_path)!r})), print); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
