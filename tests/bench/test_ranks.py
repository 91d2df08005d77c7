"""A run by several ranks is the run by one: two gloo processes, every registered approach, whole and sharded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from approaches.settings import DualTowerSettings
from bench import cli, launch, shard_checkpoint, store, worker
from bench.batches import part
from bench.config import Config, to_json
from bench.errors import UserError
from bench.ranks import EXCHANGE
from reports import schema
from tests.bench import rank_work
from tests.bench.conftest import MicroRun
from tests.bench.rank_work import NAMES, STEPS, STOP, told, training
from tests.bench.test_training import CONFIG, ROOT, batches_of

TRIES = 3
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}
PATIENCE = 900  # seconds: on a machine that does other work, ranks wait for each other at every exchange


def launched(words: Sequence[str], ranks: int = 2, **more: str) -> None:
    """Start as many processes as a launcher would, with the variables that it sets, and wait for them to end well."""
    codes, said = ended(words, ranks, **more)
    assert codes == [0] * ranks, "\n".join(said)


def ended(words: Sequence[str], ranks: int = 2, **more: str) -> tuple[list[int], list[str]]:
    """The same; by rank, the exit codes and what was said on stderr.

    A rank that ends by a crash in native code is started again with the others, with a warning: what they do goes on
    from where it was. torch 2.13 did so once in some sixty runs of these tests: SIGSEGV within malloc, in the thread
    that does gloo's exchanges (pt_gloo_runloop), where nothing of ours is at work."""
    for _ in range(TRIES):
        codes, said = _ended(words, ranks, more)
        if not CRASHES.intersection(codes):
            break
        warnings.warn(f"ranks ended with {codes}:\n" + "\n".join(said), stacklevel=2)
    return codes, said


def _ended(words: Sequence[str], ranks: int, more: Mapping[str, str]) -> tuple[list[int], list[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"}
    shared["PYTHONFAULTHANDLER"] = "1"
    shared["OMP_NUM_THREADS"] = "1"  # as launchers set it: ranks with more threads than cores wait for each other
    started = [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, **shared, **more, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[1].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
def test_a_crash_is_tried_again_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    """Two ranks end by a signal at their first start."""
    lines = [
        f"import os, signal; path = {str(tmp_path)!r} + '/' + os.environ['RANK']",
        "started = os.path.exists(path)",
    ]
    words = ["-c", "\n".join([*lines, "open(path, 'w')", f"started or os.kill(os.getpid(), signal.{name})"])]
    if name == "SIGKILL":
        assert ended(words)[0] == [-signal.SIGKILL] * 2
        return
    with pytest.warns(UserWarning, match="ranks ended with"):
        assert ended(words)[0] == [0, 0]


@dataclass(frozen=True)
class Pair:
    """What one process found, by approach, and what each of two ranks did."""

    folder: Path
    one: dict[str, dict[str, Any]]
    ranks: list[dict[str, dict[str, dict[str, Any]]]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("ranks")
    one = {}
    for name in NAMES:
        one[name] = told(training(name, folder / f"alone-{name}.safetensors"))
        assert training(name, folder / f"one-{name}.safetensors", until_stop=True) is None
    launched(["-m", "tests.bench.rank_work", str(folder)])
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return Pair(folder, one, ranks)


def assert_alike(found: dict[str, Any], expected: dict[str, Any], *, average: bool = True) -> None:
    """The same batches, and the same losses to 1e-5. Adam divides a gradient by its own size, so that rounding in a
    tiny one moves a weight as far as any: a term of few words is held less tightly."""
    assert found["digest"] == expected["digest"]
    assert [row["step"] for row in found["losses"]] == list(range(1, STEPS + 1))
    for row, other in zip(found["losses"], expected["losses"], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row == pytest.approx(other, rel=1e-4)
    for row, other in zip(found["curve"], expected["curve"], strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert row == pytest.approx(other, rel=1e-2)
    # of a sharded training the first rank alone keeps the average whole
    assert found["weights"] == pytest.approx(expected["weights"] if average else 0, rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 300)
@pytest.mark.parametrize("way", ["whole", "sharded", "taken over"])
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_train_what_one_process_does(pair: Pair, name: str, way: str) -> None:
    """`taken over`: one process trained up to STOP, two sharded ranks went on from its checkpoint."""
    for number, rank in enumerate(pair.ranks):
        assert_alike(rank[name][way], pair.one[name], average=number == 0 or way == "whole")


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 300)
@pytest.mark.parametrize("name", NAMES)
def test_one_process_goes_on_from_two_ranks_shards(pair: Pair, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"left-{name}.safetensors"
    shutil.copytree(shard_checkpoint.folder_of(pair.folder / path.name), shard_checkpoint.folder_of(path))
    assert shard_checkpoint.step(path) == STOP and not path.exists()
    assert_alike(told(training(name, path)), pair.one[name])
    assert path.exists() and shard_checkpoint.step(path) < 0  # its own checkpoint is in the shards' place


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 300)
def test_shards_hold_a_share_each_and_no_pickle(pair: Pair) -> None:
    from safetensors import safe_open

    for name in NAMES:
        top = shard_checkpoint.folder_of(pair.folder / f"sharded-{name}.safetensors")
        files = sorted(path for path in top.rglob("*") if path.is_file())
        assert {path.suffix for path in files} == {".safetensors", ".json"} and len(files) == 3
        shapes = json.loads((top / shard_checkpoint.LATEST).read_text())["shapes"]
        rows: dict[str, int] = {}
        for file in (path for path in files if path.suffix == ".safetensors"):
            with safe_open(file, "pt") as shard:
                held = {key: shard.get_slice(key).get_shape() for key in shard.keys()}  # noqa: SIM118
            for key, shape in held.items():
                rows[key] = rows.get(key, 0) + (shape[0] if shape else 1)
            assert sum(map(len, held.values())) > 0
        assert rows == {key: shape[0] if shape else 1 for key, shape in shapes.items()}  # once, and all of it


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 300)
def test_two_sharded_ranks_do_a_whole_run(micro_run: MicroRun, tmp_path: Path) -> None:
    """From the command line to the record, beside the same run by one process. The launcher asks for DeepSpeed's ZeRO
    stage 2, which becomes FSDP2."""
    file, out = tmp_path / "config.json", tmp_path / "runs"
    file.write_text(to_json(replace(micro_run.config, preset="smoke")))  # a file names a preset that there is
    words = ["-m", "bench", "run", "--config", str(file), "--approach", "dual_tower", "--out", str(out)]
    launched(words, ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE="2")
    (folder,) = [path.parent for path in out.glob("*/record.json")]
    ours, one = schema.load(folder), schema.load(micro_run.folder)
    assert (folder.parent / "report.html").is_file() and (folder.parent / "report.md").is_file()
    assert ours.status == "done" and ours.provenance["launch"] == {"ranks": 2, "sharded": True, "zero_stage": 2}
    assert ours.identical.batches == one.identical.batches and ours.budgets.images == one.budgets.images
    assert ours.budgets.flops == one.budgets.flops  # counted of the whole batch, whatever its parts
    for name, number, bound in (("loss", "loss", 1e-3), ("validation", "validation_loss", 1e-2)):  # after twelve steps
        for row, other in zip(ours.curves[name], one.curves[name], strict=True):
            assert row[number] == pytest.approx(other[number], rel=bound)
    first, expected = ours.curves["loss"][0], one.curves["loss"][0]
    assert first["step"] == 1 and first["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert ours.metrics.keys() == one.metrics.keys()
    assert ours.metrics["perplexity_retention"].value == 1.0
    assert not [path for path in folder.iterdir() if path.name.startswith("checkpoint")]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_a_batch_out_without_repeats(ranks: int) -> None:
    batches = batches_of(CONFIG)
    whole = batches(3)
    parts = [part(whole, rank, ranks) for rank in range(ranks)]
    for of in ("draw", "describe"):
        together = torch.cat([getattr(each, of).latents for each in parts])
        assert torch.equal(together, getattr(whole, of).latents)
        assert sum((getattr(each, of).captions for each in parts), ()) == getattr(whole, of).captions
    assert torch.equal(torch.cat([each.text for each in parts]), whole.text)
    rows = [row for each in parts for row in range(*each.rows(7).indices(7))]
    assert rows == list(range(7)) and all(each.whole is whole for each in parts) and whole.whole is whole


def test_what_is_drawn_for_the_whole_is_the_same_in_every_part() -> None:
    batches = batches_of(CONFIG)
    streams = [batches.generators(5, rank)("whole/x") for rank in (0, 0, 1)]
    first = [torch.rand(3, generator=stream).tolist() for stream in streams]
    assert first[0] == first[1] == first[2] == torch.rand(3, generator=batches.generators(5)("x")).tolist()
    draws = batches.generators(5)
    again = [torch.rand(3, generator=draws("whole/x")).tolist() for _ in range(2)]
    assert again == [first[0], first[0]]


# ------------------------------------------------------------------------------------------------ failures

BY_RANK = [
    ("mistake", "failed", "rank 1: No space left", 2, "rank 1: No space left"),
    ("error", "failed", "OtherRankError: rank 1: ArithmeticError: the loss is nan; the traceback ", 3, "at step 7"),
    ("mute", "failed", "RuntimeError: ", 3, ""),
    ("own", "failed", "ArithmeticError: the first's loss is nan", 3, "rank 1: RuntimeError: "),
    ("shards", "failed", "OtherRankError: rank 1: OSError: [Errno 28] No space left on device", 3, "rank 1: OSError: "),
]


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 300)
@pytest.mark.parametrize(("what", "state", "reason", "code", "said"), BY_RANK, ids=[what for what, *_ in BY_RANK])
def test_a_rank_that_fails_is_named(
    what: str, state: str, reason: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first, which is cut off from it, and by itself; the first's own failure stays its own."""
    monkeypatch.setattr(store, "source_hash", lambda *_: "sources")  # somebody may be editing them
    request = store.request(Config(preset="micro"), "dual_tower", DualTowerSettings(), {})
    folder = tmp_path / request.name
    stale = launch.Failure(rank=1, kind="mistake", said="of an earlier worker")
    folder.mkdir()
    stale.write(folder)
    codes, spoken = ended(["-m", "tests.bench.rank_work", str(tmp_path), what])
    found = store.read_state(folder)
    assert found is not None and found.state == state, spoken
    assert found.reason.startswith(reason), found.reason
    assert codes[0] == code and codes[1] == {"mute": 9, "mistake": 2}.get(what, 3), spoken
    assert said in spoken[1] and "earlier" not in found.reason
    left = folder / launch.FAILURE.format(1)
    assert left.exists() == (what != "mute")
    if what == "error":
        trace = "raise ArithmeticError"
        assert trace in spoken[1] and trace in left.read_text() and trace in (folder / worker.ERROR).read_text()


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 300)
def test_only_the_wait_for_the_first_of_a_machine_may_be_long(tmp_path: Path) -> None:
    """Exchanges may take three seconds here, and the first is five at work."""
    assert launch.WAITING > 4 * EXCHANGE
    ended(["-m", "tests.bench.rank_work", str(tmp_path), "waits"])
    found = json.loads((tmp_path / "waited.json").read_text())
    assert found["waited"] > 4 and "Timed out" in found["said"], found


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("name", launch.RANKS)
def test_ranks_are_numbers(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before accelerate reads them: its own error is no sentence."""
    for each in launch.RANKS:
        monkeypatch.setenv(each, "x" if each == name else "1")
    assert cli.main(["run", "--preset", "smoke", "--approach", NAMES[0]]) == 2
    assert f"the variable {name} is 'x', expected a number" in capsys.readouterr().err


def test_a_variable_of_a_launcher_s_alone_is_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in launch.RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "-1")  # what many a script says of one process
    assert launch.ranks() == 1
    monkeypatch.setenv("RANK", "0")
    assert (launch.ranks(), launch.rank()) == (1, 0)


def test_ranks_do_one_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in (["run"], ["run", "--approach", NAMES[0], "--seeds", "2"]):
        assert cli.main(words) == 2
        assert "the 2 ranks are one run" in capsys.readouterr().err
    with pytest.raises(UserError, match="start it without a launcher"):
        launch.refuse("a sweep")
    assert rank_work.NAMES == NAMES


def test_a_launcher_of_one_process_leaves_its_wishes_out_of_the_worker() -> None:
    """accelerate would obey them there: DeepSpeed, its own precision, a rank among others."""
    around = {"PATH": "/bin", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "ACCELERATE_USE_DEEPSPEED": "true"}
    kept = {"PATH": "/bin", "ACCELERATE_USE_CPU": "true"}
    assert launch.for_worker({**around, **kept}) == kept


def test_what_the_launcher_asks_for_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launch.ranks(), launch.rank(), launch.sharded()) == (1, 0, False)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not launch.sharded()  # one process has nobody to share with
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--fsdp_version 2"):
        launch.sharded()
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert (launch.ranks(), launch.rank(), launch.sharded()) == (2, 1, True)


@pytest.mark.parametrize("way", ["flags", "file"])
@pytest.mark.parametrize(("stage", "sharded", "reshard"), [(0, False, "false"), (2, True, "false"), (3, True, "true")])
def test_deepspeeds_stages_are_fully_shards(
    way: str, stage: int, sharded: bool, reshard: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "environ", {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"})
    if way == "flags":
        os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = str(stage)
    else:
        file = tmp_path / "zero.json"
        file.write_text(json.dumps({"zero_optimization": {"stage": stage}, "gradient_clipping": 1.0}))
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(file)
    said = launch.take_deepspeed()
    assert f"ZeRO stage {stage} is done by" in said and ("not read" in said) == (way == "file")
    assert launch.sharded() == sharded and os.environ["FSDP_RESHARD_AFTER_FORWARD"] == reshard
    assert launch.record() == {"ranks": 2, "sharded": sharded, "zero_stage": stage}
    assert not [name for name in os.environ if "DEEPSPEED" in name]
    assert launch.take_deepspeed() == ""  # once


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"zero_optimization": {"stage": 4}}, "stage is 4, expected 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "--fsdp_offload_params true"),
        ({"zero_optimization": 2}, "is no DeepSpeed config"),
        ([], "is no DeepSpeed config"),
    ],
)
def test_what_deepspeed_can_not_be_turned_into(
    config: Any, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(config))
    before = {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}
    monkeypatch.setattr(os, "environ", {**before, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)})
    with pytest.raises(UserError, match=said):
        launch.take_deepspeed()
    assert os.environ.keys() == {*before, "ACCELERATE_DEEPSPEED_CONFIG_FILE"}  # as it was
