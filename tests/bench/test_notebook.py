"""`bench.run`: what it is given is judged, done and kept as on the command line. The page's block does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import bench
from approaches.settings import DualTowerSettings
from bench import cli, hands_on, notebook, runner, store
from bench.environment import ROOT
from bench.errors import UserError
from bench.presets import preset
from reports import schema
from tests.bench import stand_ins, ways
from tests.bench.conftest import MicroRun

BLOCK = re.compile(r"## From Python\n.*?```python\n(.*?)```", re.DOTALL)


def asked(approach: str = "dual_tower", **more: Any) -> Any:
    """What the words that are made of these values mean."""
    given = {"preset": "tiny", "out": "runs", "seed": 0, "settings": {}, "config": {}, **more}
    return cli.judged("run", cli.VERBS["run"], notebook.spelled(approach, **given))


def test_every_kind_of_value_arrives() -> None:
    fields = {
        "data.size": 64, "train.amount": 4e2, "train.optimizer": "adamw", "evaluate.other_texts": ["readmes"],
        "train.describe_prompt": "-- a picture: ", "model.encoder": "", "data.path": None,
    }  # fmt: skip
    settings: dict[str, Any] = {"words": "frozen", "fuse": True, "learning_rate": 1e-3}
    found = asked(preset="smoke", seed=5, out=Path("else"), settings=settings, config=fields)
    base = preset("smoke")
    assert found.config == replace(
        base,
        seed=5,
        data=replace(base.data, size=64),
        train=replace(base.train, amount=400.0, optimizer="adamw", describe_prompt="-- a picture: "),
        evaluate=replace(base.evaluate, other_texts=("readmes",)),
    )
    arguments = found.arguments
    assert (arguments.approach, arguments.out, arguments.seeds) == (("dual_tower",), Path("else"), 1)
    assert arguments.settings == replace(DualTowerSettings.of_preset("smoke"), **settings)
    assert asked(settings={"fuse": False}).arguments.settings.fuse is False
    assert asked(config={"evaluate.other-texts": ()}).config.evaluate.other_texts == ()


def test_a_path_decides_what_reads_it_and_short_names_are_known(tmp_path: Path) -> None:
    found = asked(config={"data.path": stand_ins.pictures(tmp_path / "mine"), "lm": "shipped:lm-tiny"}).config
    assert (found.data.name, found.data.path) == ("folder", str(tmp_path / "mine"))


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"approach": "dual_towr"}, "unknown approach 'dual_towr': did you mean 'dual_tower'"),
    ({"approach": "all"}, "approach is 'all', expected one"),
    ({"preset": "smok"}, "unknown preset 'smok': did you mean 'smoke'"),
    ({"seed": -1}, "seed is -1"),
    ({"config": {"data.siz": 64}}, "'run' has no option --data.siz: did you mean --data.size"),
    ({"config": {"data.size": 30}}, "data.size is 30, expected a multiple of 4 from 8 to 1024"),
    ({"config": {"data.size": 32.5}}, "--data.size is '32.5', expected int"),
    ({"config": {"data.path": "./typo"}}, "--data.path ./typo: no such file or folder"),
    ({"config": {"train.optimizer": True}}, "--train.optimizer takes no value|--train.optimizer has no value"),
    ({"config": {"seeds": 3}}, "config has 'seeds', which is no field of a config: did you mean 'seed'"),
    ({"config": {"help": True}}, "config has 'help', which is no field of a config"),
    ({"settings": {"variant": "gatd"}}, "--settings.variant is 'gatd': did you mean 'gated'"),
    ({"settings": {"queries": 3}}, "'run' has no option --settings.queries"),
    ({"settings": {"fuse": "yes"}}, "--settings.fuse takes no value, got 'yes'"),
    ({"seed": 1, "config": {"seed": 3}}, "config has 'seed', expected it as seed="),
    ({"preset": None}, "preset and the names in config and settings are texts"),
    ({"config": {3: 4}}, "preset and the names in config and settings are texts"),
]


@pytest.mark.parametrize(("given", "sentence"), MISTAKES, ids=[sentence for _, sentence in MISTAKES])
def test_a_mistake_gets_the_command_lines_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        bench.run(**{"approach": "dual_tower", **given})


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Fields of a run that a stand-in for the worker does."""
    ways.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(runner, "WORKER", (sys.executable, ways.__file__))
    monkeypatch.setattr(store, "source_hash", lambda *_: "sources")  # somebody may be editing them
    monkeypatch.setattr(hands_on, "Trained", lambda folder: folder)  # a stand-in leaves no weights
    own = ways.micro(tmp_path)
    fields = {"data.train_items": 48, "data.eval_items": 16, "text.path": own.text.path}
    return {"out": tmp_path / "runs", "settings": {"depth": 7}, "config": fields}


def test_a_run_is_kept_and_done_once(strangers: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    folder: Any = bench.run("good", seed=3, **strangers)
    request = store.Request.read(folder)
    assert (request.approach, request.settings["depth"], request.config.seed) == ("good", 7, 3)
    assert schema.load(folder).status == "done" and "begins" in capfd.readouterr().out
    assert bench.run("good", seed=3, **strangers) == folder and "done already" in capfd.readouterr().out
    # What the record tells to type makes the same run.
    assert request.command[:4] == ("python", "-m", "bench", "run")
    assert cli.main(list(request.command[3:])) == 0
    assert f"{folder.name}: done already" in capfd.readouterr().out


def test_a_run_that_fails_says_why(strangers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="run mistaken-tiny-.*: failed: settings.depth is 3, expected what fits"):
        bench.run("mistaken", **strangers)
    with pytest.raises(UserError, match="run killed-tiny-.*: killed: signal SIGKILL"):
        bench.run("killed", **strangers)


def test_a_mistake_is_told_before_torch_is_imported() -> None:
    code = (
        "import sys, bench\n"
        "try: bench.run('dual_tower', config={'data.size': 30})\n"
        "except bench.errors.UserError as error: print(sorted({'torch', 'diffusers'} & set(sys.modules)), error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] data.size is 30, expected")


@pytest.mark.slow
def test_the_block_of_the_page_does_what_it_says(
    micro_run: MicroRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its run is another that is done; what is asked of it is asked for real."""
    found = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None and len(found[1].splitlines()) <= 12
    stand_ins.pictures(tmp_path / "my-pictures")
    monkeypatch.chdir(tmp_path)
    requests: list[store.Request] = []

    def execute(request: store.Request, *_: Any) -> runner.Ended:
        requests.append(request)
        state = store.read_state(micro_run.folder)
        assert state is not None
        return runner.Ended(request=request, folder=micro_run.folder, state=state, record=None, code=0)

    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(runner, "contents", lambda *_: {})  # the preset's text takes minutes to read
    exec(compile(found[1], "README.md", "exec"), {})
    (request,) = requests
    assert (request.config.data.name, request.config.data.path) == ("folder", "my-pictures")
    (picture,) = tmp_path.glob("*.png")
    with Image.open(picture) as image:
        assert image.size == (32, 32)
    assert capsys.readouterr().out.strip()
