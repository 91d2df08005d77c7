"""Without a network, models come from the local cache at once, or are refused in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from approaches.shared.language_model import LanguageModel
from approaches.shared.sources import WEIGHTS
from approaches.shared.vae import LatentCodec
from bench import reach
from bench.errors import UserError
from metrics.alignment import Clip


class NoRoute:
    """A session of a machine without a network."""

    asked = 0

    def head(self, url: str, timeout: float) -> None:
        """Fails, and counts."""
        NoRoute.asked += 1
        raise OSError("unreachable")


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(NoRoute, "asked", 0)
    monkeypatch.setattr(huggingface_hub, "get_session", NoRoute)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("datasets_offline", [False, True])
def test_the_settings_are_put_back_whatever_happens(monkeypatch: pytest.MonkeyPatch, datasets_offline: bool):
    constants = huggingface_hub.constants
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", datasets_offline)
    with pytest.raises(KeyError), reach.hub_or_cache() as reachable:
        assert not reachable and constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
        raise KeyError
    assert not constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE is datasets_offline
    monkeypatch.setattr(reach, "_answers", lambda: True)
    with reach.hub_or_cache() as reachable:
        assert reachable and not constants.HF_HUB_OFFLINE


def test_nobody_is_asked_for_what_is_local_or_where_the_environment_says_offline(monkeypatch: pytest.MonkeyPatch):
    with reach.hub_or_cache(needed=False) as reachable:
        assert reachable
    LanguageModel.load("shipped:lm-tiny")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with reach.hub_or_cache() as reachable:
        assert reachable and huggingface_hub.constants.HF_HUB_OFFLINE
    assert NoRoute.asked == 0


@pytest.mark.parametrize(("load", "kind"), [(LanguageModel.load, "lm-tiny"), (LatentCodec.load, "vae-tiny")])
def test_what_the_cache_holds_is_loaded_without_a_network(load: Callable[[str], object], kind: str, tmp_path: Path):
    revision = "0" * 40
    repository = tmp_path / "models--someone--something"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    shutil.copytree(WEIGHTS / kind, repository / "snapshots" / revision)
    loaded = load("someone/something")
    assert type(loaded) is type(load(f"shipped:{kind}"))
    assert NoRoute.asked == 2  # which commit, and for its files


def test_cached_latents_of_a_hub_s_name_are_of_the_weights_that_it_has_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "latents"))
    snapshots = tmp_path / "models--someone--something" / "snapshots"
    main = tmp_path / "models--someone--something" / "refs" / "main"
    main.parent.mkdir(parents=True)
    main.write_text("0" * 40)
    shutil.copytree(WEIGHTS / "vae-tiny", snapshots / ("0" * 40))
    images = np.full((1, 32, 32, 3), 90, np.uint8)
    first = LatentCodec.load("someone/something")
    before = first.encode_images(images, key="pictures")
    shutil.copytree(WEIGHTS / "vae-tiny", snapshots / ("1" * 40))
    main.write_text("1" * 40)  # a push, under the same name
    (weights,) = (snapshots / ("1" * 40)).glob("*.safetensors")
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights)
    second = LatentCodec.load("someone/something")
    assert not torch.equal(second.encode_images(images, key="pictures"), before)
    assert torch.equal(first.encode_images(images, key="pictures"), before)


@pytest.mark.parametrize(
    ("load", "name"),
    [(LanguageModel.load, "someone/nothing"), (LatentCodec.load, "someone/nothing"), (Clip, "ViT-B-32/openai")],
)
def test_what_it_does_not_hold_is_refused_after_one_question(load: Callable[[str], object], name: str):
    with pytest.raises(UserError) as caught:
        load(name)
    assert str(caught.value).endswith(f"'{name}' can't be loaded: {reach.NO_ANSWER}")
    assert NoRoute.asked == 1 and not huggingface_hub.constants.HF_HUB_OFFLINE
