"""`sweep`: what is asked for is judged before torch is imported; every approach gets the same values, seeds and budget;
what is done is not done again; a failing trial takes no other down; the best value is the lowest mean, and one at an
edge is said to be. The worker here acts fates out (tests/bench/ways.py); one test does it for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from approaches.registry import APPROACHES
from bench import array, array_arguments, cli, runner, store, sweep
from bench.array_arguments import ArrayArguments
from bench.config import Config
from bench.console import Console
from bench.files import read_json
from bench.parsing import parse
from bench.plain import build
from bench.presets import preset
from bench.sweep_arguments import GRID, SweepArguments, points, shortened
from bench.trainee import Budget, decayed
from metrics.statistics import Estimate
from reports import schema
from reports.sweeps import Sweep
from tests.bench import ways
from tests.bench.test_run_cli import JUDGED

ROOT = Path(__file__).parents[2]

MISTAKES = [
    ("sweep --approach dual_towr", "unknown approach 'dual_towr': did you mean 'dual_tower'?"),
    ("sweep --field ema --values 0.9 0.99", "unknown field 'ema': did you mean 'train.ema'?"),
    ("sweep --field train.em --values 1 2", "unknown field 'train.em': did you mean 'train.ema'?"),
    ("sweep --field settings.learing_rate", "has no setting 'learing_rate': did you mean 'settings.learning_rate'?"),
    ("sweep --field settings.fuse --values true false", "approach 'full_retraining' has no setting 'fuse'"),
    ("sweep --field train --values 1 2", "--field train is a group of fields"),
    ("sweep --field train.ema", "--values of train.ema are to be compared: expected two or more, got 0"),
    ("sweep --values 1e-3 0.001", "--values of settings.learning_rate are to be compared: expected two or more, got 1"),
    ("sweep --values 1e-3 20", "settings.learning_rate is 20.0, expected a value above 0 and up to 10"),
    ("sweep --values 1e-3 nan", "settings.learning_rate is nan, expected"),
    ("sweep --values 1e-3 fast", "settings.learning_rate is 'fast', expected float"),
    ("sweep --field train.clip --values 0 1", "train.clip is 0.0, expected a value above 0"),
    ("sweep --approach dual_tower --field settings.fuse --values true maybe", "is 'maybe', expected true or false"),
    ("sweep --field train.patch --values 1 3", "data.size is 32, expected a multiple of 12"),
    ("sweep --field model.lm --values shipped:lm-tiny nowhere", "model.lm is 'nowhere'"),
    ("sweep --field data.size --values 32 64", "with which the loss itself changes"),
    ("sweep --field train.amount --values 32 64", "which is the effort that a sweep keeps equal"),
    ("sweep --field seed --values 0 1", "--seeds repeats every trial"),
    (
        "sweep --rank-by caption_loss --field train.caption_tokens --values 20 40",
        "--rank-by is caption_loss, which is by token, and --field train.caption_tokens changes the tokens that count",
    ),
    ("sweep --share 0", "share is 0.0, expected a value above 0 and up to 1"),
    ("sweep --steps 10000", "--steps is 10000, expected at most the whole budget of "),
    (
        "sweep --train.budget seconds --train.amount 60 --steps 5",
        "--steps counts steps, and train.budget is 'seconds': take --share",
    ),
    ("sweep --out README.md", "--out README.md is a file, expected a folder"),
    ("sweep --valus 3", "did you mean --values?"),
    (
        "sweep --approach dual_tower --field settings.variant --values gated gatd",
        "settings.variant is 'gatd': did you mean 'gated'?",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_one_sentence(capsys: pytest.CaptureFixture[str], line: str, sentence: str):
    assert cli.main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and sentence in captured.err, captured.err


def test_it_is_judged_before_torch_is_imported():
    line = "sweep --approach dual_tower --field settings.variant --values gated gatd"
    done = subprocess.run([sys.executable, "-c", JUDGED, *line.split()], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr


# ------------------------------------------------------------------------------------------------- equal effort


def asked(*words: str) -> tuple[SweepArguments, Config]:
    found = parse(SweepArguments, words, verb="sweep", program=cli.PROGRAM, configured=True)
    return found.arguments, found.config


def test_by_default_every_approach_gets_the_same_learning_rates_and_images():
    found = points(*asked())
    rates = [float(word) for word in GRID]
    assert [(point.approach, point.value) for point in found] == [(name, rate) for name in APPROACHES for rate in rates]
    assert len({point.config for point in found}) == 1
    for point in found:
        own = APPROACHES[point.approach].load_settings().of_preset("tiny")
        assert point.settings == replace(own, learning_rate=point.value)


@pytest.mark.parametrize("words", [(), ("--steps", "150"), ("--train.budget", "steps", "--train.amount", "400")])
def test_a_trials_schedule_is_the_whole_ones_shape_and_ends_with_its_budget(words: tuple[str, ...]):
    arguments, config = asked(*words)
    short, whole = shortened(arguments, config).train, config.train
    steps, all_steps = (Budget.of(train).steps or 0 for train in (short, whole))
    assert steps == (150 if "150" in words else int(0.25 * all_steps))
    assert short.warmup / steps == pytest.approx(whole.warmup / all_steps, abs=0.51 / steps)
    assert 0 < short.warmup < steps
    share = decayed(steps - 1, short.warmup, (steps - 1 - short.warmup) / (steps - short.warmup))
    assert 0.01 <= share < 0.012  # the decay has come to its end


def test_any_number_of_steps_is_kept_to_the_step():
    for steps in (1, 7, 33, 149, 151, 313):
        arguments, config = asked("--steps", str(steps))
        assert Budget.of(shortened(arguments, config).train).steps == steps


def test_a_field_of_the_config_goes_into_the_config_and_seeds_repeat_it():
    line = "--approach modular --field train.weight-decay --values 1 0 --seeds 2 --settings.redraws 1 --seed 5"
    arguments, config = asked(*line.split(), "--preset", "smoke")
    found = points(arguments, config)
    assert [(point.value, point.config.seed) for point in found] == [(0.0, 5), (0.0, 6), (1.0, 5), (1.0, 6)]
    assert all(point.config.train.weight_decay == point.value and point.settings.redraws == 1 for point in found)
    assert found[0].config.train.warmup == 1  # of two, shrunk, but there
    assert found[0].config.data == preset("smoke").data


def test_another_language_model_brings_what_it_means_by_default():
    line = "--approach modular --field model.lm --values shipped:lm-tiny package:smollm2"
    for words, redraws in (("", 1), ("--settings.redraws 2", 2)):
        own, other = points(*asked(*line.split(), *words.split()))
        assert (own.settings.plan_examples, other.settings.plan_examples) == (0, 4)
        assert own.settings.redraws == other.settings.redraws == redraws
    jobs = parse(ArrayArguments, line.split(), verb="array", program=cli.PROGRAM, configured=True)
    _, job = array_arguments.points(jobs.arguments, jobs.config)
    assert job.settings.plan_examples == 4 and "world" not in job.config.evaluate.other_texts


# --------------------------------------------------------------------------------------------- trials and record


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    ways.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(runner, "WORKER", (sys.executable, ways.__file__))
    monkeypatch.setattr(store, "source_hash", lambda *_: "sources")  # somebody may be editing them
    return ways.micro(tmp_path)


def read(path: Path) -> Sweep:
    found: Sweep = build(Sweep, read_json(path), full=True)
    return found


def swept(tmp_path: Path, config: Config, *approaches: str, **more: Any) -> tuple[int, Sweep]:
    """The exit code, and the latest record."""
    arguments = SweepArguments(approach=approaches, out=tmp_path / "sweeps", **more)
    return sweep.main(arguments, config, Console(as_json=arguments.json)), latest(tmp_path)


def latest(tmp_path: Path) -> Sweep:
    return read(max((tmp_path / "sweeps").glob("*.json"), key=lambda path: path.stat().st_mtime_ns))


def folders(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "sweeps" / "trials").iterdir()}


def test_a_sweep_records_every_trial_and_its_effort(tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]):
    code, found = swept(tmp_path, config, "good", values=("1e-3", "5e-4"), seeds=2, json=True)
    assert (code, found.status, found.values, found.seeds) == (0, "done", (5e-4, 1e-3), (0, 1))
    (tuned,) = found.approaches
    assert [(trial.value, trial.seed) for trial in tuned.trials] == [(5e-4, 0), (5e-4, 1), (1e-3, 0), (1e-3, 1)]
    for trial in tuned.trials:
        record = schema.load(tmp_path / "sweeps" / trial.folder)
        assert record.settings["learning_rate"] == trial.value and record.seed == trial.seed
        assert trial.metrics["validation_loss"] == record.metrics["validation_loss"]
    assert tuned.effort.trials == 4 and tuned.effort.train_seconds == 4 * 61.0
    assert found.config["train"]["amount"] == 0.25 * config.train.amount
    printed = json.loads(capfd.readouterr().out)
    assert {name: value for name, value in printed.items() if name != "file"} == read_json(Path(printed["file"]))


def test_what_is_done_is_not_done_again_and_new_values_join_it(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    _, first = swept(tmp_path, config, "good", values=("1e-3", "2e-3"))
    before = folders(tmp_path)
    capfd.readouterr()
    _, again = swept(tmp_path, config, "good", values=("2e-3", "1e-3"))
    out = capfd.readouterr().out
    assert out.count("done already") == 2 and "at work" not in out
    assert (again.key, again.approaches, folders(tmp_path)) == (first.key, first.approaches, before)
    shutil.rmtree(tmp_path / "sweeps" / "trials")  # its record stands until it is done anew
    stood = list[str]()

    def nothing(*_: Any) -> Iterator[Any]:
        stood.append(latest(tmp_path).status)
        return iter(())

    with monkeypatch.context() as patch:
        patch.setattr(array, "in_turn", nothing)
        swept(tmp_path, config, "good", values=("1e-3", "2e-3"))
    assert stood == ["done"] and latest(tmp_path).approaches == first.approaches
    swept(tmp_path, config, "good", values=("1e-3", "2e-3"))
    capfd.readouterr()
    _, wider = swept(tmp_path, config, "good", values=("1e-3", "2e-3", "4e-3"))
    assert wider.key != first.key and len(folders(tmp_path) - before) == 1
    assert capfd.readouterr().out.count("at work") == 1


def test_a_failing_trial_takes_no_other_down_and_is_tried_again(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]
):
    code, found = swept(tmp_path, config, "killed", "good", values=("1e-3", "2e-3"))
    assert (code, found.status) == (3, "failed")
    bad, good = found.approaches
    assert [trial.state for trial in (*bad.trials, *good.trials)] == ["killed", "killed", "done", "done"]
    assert bad.chosen is None and "SIGKILL" in bad.reason and bad.effort.trials == 0
    assert good.chosen == 1e-3
    assert any("not all trials are done" in note and "killed" in note for note in found.notes)
    assert "killed: no best value" in capfd.readouterr().out
    swept(tmp_path, config, "killed", "good", values=("1e-3", "2e-3"))
    out = capfd.readouterr().out
    assert out.count("goes on") == 2 and out.count("done already") == 2


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_trial_whose_folder_is_another_runs_takes_no_other_down(tmp_path: Path, config: Config, parallel: int):
    _, found = swept(tmp_path, config, "good", values=("1e-3", "2e-3"))
    taken = tmp_path / "sweeps" / found.approaches[0].trials[0].folder
    record = schema.load(taken)
    schema.save(replace(record, key=record.key[:8] + "0" * 8), taken)
    code, found = swept(tmp_path, config, "good", values=("1e-3", "2e-3"), parallel=parallel)
    assert (code, found.status, found.reason) == (2, "failed", "1 trial is not done")
    (tuned,) = found.approaches
    assert [trial.state for trial in tuned.trials] == ["failed", "done"]
    assert "holds another run of the same name" in tuned.trials[0].reason and not tuned.trials[0].metrics


def test_a_mistaken_trial_is_no_success(tmp_path: Path, config: Config):
    code, found = swept(tmp_path, config, "mistaken", values=("1e-3", "2e-3"))
    assert (code, found.status, found.approaches[0].chosen) == (2, "failed", None)


def test_without_the_number_to_rank_by_nothing_is_chosen_and_that_is_no_success(tmp_path: Path, config: Config):
    code, found = swept(tmp_path, config, "good", values=("1e-3", "2e-3"), rank_by="caption_loss")
    assert (code, found.status) == (2, "done")
    assert found.approaches[0].reason == "no caption_loss: it was not measured"


CODE = (
    "import sys; from pathlib import Path; from bench import runner, store, sweep; from tests.bench import ways;"
    "from bench.console import Console; from bench.sweep_arguments import SweepArguments as A;"
    "runner.WORKER = (sys.executable, ways.__file__); store.source_hash = lambda *_: 'sources';"
    "out = Path(sys.argv[1]); a = A(approach=('good', 'slow'), out=out / 'sweeps', values=('1e-3', '2e-3'));"
    "sys.exit(sweep.main(a, ways.micro(out), Console()))"
)


def test_killed_and_started_again_it_goes_on(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch):
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, tmp_path / "site")))}
    process = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path)], env=surroundings,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    end = time.monotonic() + 180
    while not (begun := list((tmp_path / "sweeps" / "trials").glob("slow-*/begun"))) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert begun, "the slow trial did not begin"
    (path,) = (tmp_path / "sweeps").glob("*.json")
    left = read(path)
    assert (left.status, left.reason) == ("unfinished", "2 trials are still to do")
    assert left.approaches[0].chosen == 1e-3 and left.approaches[1].chosen is None
    # The slow worker is the good one's now; trials, and so the sweep, are the same.
    done = dict.fromkeys(folders(tmp_path))
    acted: list[str] = []
    real = runner.execute

    def execute(request: store.Request, out: Path, console: Console) -> runner.Ended:
        acted.append(request.name)
        if request.approach == "slow":
            ended = real(replace(request, approach="good"), out / "quick", console)
            return replace(ended, folder=out / request.name)
        return real(request, out, console)

    for _ in range(500):  # the worker dies with its parent, if not at once
        states = [store.read_state(tmp_path / "sweeps" / "trials" / name) for name in done]
        if all(state is not None and state.state != "running" for state in states):
            break
        time.sleep(0.01)
    monkeypatch.setattr(runner, "execute", execute)
    code, whole = swept(tmp_path, config, "good", "slow", values=("1e-3", "2e-3"))
    assert (code, whole.status, whole.key) == (0, "done", left.key)
    assert whole.approaches[0] == left.approaches[0]
    assert {trial.folder.removeprefix("trials/") for each in whole.approaches for trial in each.trials} == set(acted)


# ------------------------------------------------------------------------------------------------- choice and edge


def judged(
    losses: dict[tuple[str, float], list[float | None]],
    field: str = "settings.learning_rate",
    rank_by: str = "validation_loss",
) -> Sweep:
    """The record of trials that ended with these numbers to rank by, one a seed; None for one that failed."""
    names, values = (tuple(dict.fromkeys(key[place] for key in losses)) for place in (0, 1))
    asked: dict[str, Any] = {"approach": names, "values": tuple(map(str, values)), "field": field, "rank_by": rank_by}
    arguments = SweepArguments(seeds=len(next(iter(losses.values()))), **asked)
    work = object.__new__(sweep.Work)
    work.arguments, work.config, work.key, work.provenance = arguments, Config(), "0" * 16, {}
    work.base, work.points = shortened(arguments, Config()), points(arguments, Config())
    work.ended = [
        ended(point, losses[point.approach, point.value][point.config.seed], rank_by) for point in work.points
    ]
    return work.record()


def ended(point: Any, loss: float | None, name: str) -> runner.Ended:
    request = store.Request(approach=point.approach, settings={}, config=point.config, key="k", parts={"sources": "s"})
    state = store.State(state="done" if loss is not None else "failed", reason="" if loss is not None else "nan")
    record = schema.Record(
        key="k", name="n", approach=point.approach, settings={}, config={"seed": point.config.seed}, status="done",
        metrics={name: Estimate(value=loss, n=1, reason="one")},
        budgets=schema.Budgets(flops=2.0, steps=3, images=192), seconds={"train": 5.0, "measured": 1.0},
        identical=schema.Identical(batches="b"),
    ) if loss is not None else None  # fmt: skip
    return runner.Ended(request=request, folder=Path("trials/n"), state=state, record=record, code=0 if record else 3)


def test_the_lowest_mean_over_seeds_is_chosen():
    found = judged({("modular", 1e-3): [0.5, 0.1], ("modular", 2e-3): [0.2, 0.2], ("modular", 4e-3): [0.3, 0.3]})
    (tuned,) = found.approaches
    assert (tuned.chosen, tuned.edge, found.widened) == (2e-3, "", ())
    assert [score.mean for score in tuned.scores] == pytest.approx([0.3, 0.2, 0.3])
    assert (tuned.effort.trials, tuned.effort.flops, tuned.effort.images, tuned.effort.seconds) == (6, 12.0, 1152, 36.0)
    assert found.notes == ()


@pytest.mark.parametrize("name", ["caption_gap", "heard_colours"])
def test_of_what_is_heard_the_highest_mean_is_chosen(name: str):
    found = judged({("modular", 1e-3): [0.1], ("modular", 2e-3): [0.3], ("modular", 4e-3): [-0.2]}, rank_by=name)
    assert (found.ranked_by, found.approaches[0].chosen) == (name, 2e-3)
    assert name in sweep.KEPT


def test_a_best_value_at_an_edge_widens_the_grid_of_all():
    found = judged(
        {("modular", 1e-3): [0.1], ("modular", 2e-3): [0.2], ("modular", 4e-3): [0.3],
         ("projection", 1e-3): [0.3], ("projection", 2e-3): [0.2], ("projection", 4e-3): [0.1]}
    )  # fmt: skip
    assert [(tuned.chosen, tuned.edge) for tuned in found.approaches] == [(1e-3, "smallest"), (4e-3, "largest")]
    assert found.widened == (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
    assert any("one seed" in note for note in found.notes)


def test_a_value_that_diverged_is_not_chosen_and_its_neighbour_is_no_edge():
    found = judged({("modular", 1e-3): [0.2], ("modular", 2e-3): [0.1], ("modular", 4e-3): [None]})
    (tuned,) = found.approaches
    assert (tuned.chosen, tuned.edge, found.widened, found.status) == (2e-3, "", (), "failed")
    assert tuned.scores[2].reason == "failed: nan"


def test_one_seed_that_failed_leaves_the_value_out():
    found = judged({("modular", 1e-3): [0.2, 0.2], ("modular", 2e-3): [0.1, None]})
    assert (found.approaches[0].chosen, found.approaches[0].edge) == (1e-3, "smallest")


def test_beyond_a_fields_bound_there_is_no_edge():
    found = judged({("modular", 0.5): [0.2], ("modular", 1.0): [0.1]}, field="train.ema")
    assert (found.approaches[0].chosen, found.approaches[0].edge, found.widened) == (1.0, "", ())
    found = judged({("modular", 0.9): [0.2], ("modular", 0.99): [0.1]}, field="train.ema")
    # 0.99 is an edge, but what the ratio gives, 1.089, is no decay
    assert (found.approaches[0].edge, found.widened) == ("largest", ())


def test_a_value_that_settings_or_pictures_refuse_is_not_advised():
    for field, low, high, widened in (
        ("settings.heads", 3, 6, (3, 6, 12)),
        ("settings.heads", 4, 12, ()),  # a width of 192 doesn't divide into 36
        ("train.patch", 2, 8, ()),  # a latent of 8 doesn't divide into 32
    ):
        found = judged({("modular", low): [0.2], ("modular", high): [0.1]}, field=field)
        assert (found.approaches[0].edge, found.widened) == ("largest", widened)


def test_an_allowed_bound_is_tried():
    found = judged({("modular", 2): [0.1], ("modular", 4): [0.2]}, field="train.noise_levels")
    assert (found.approaches[0].edge, found.widened) == ("smallest", (1, 2, 4))


def test_unequal_images_are_noted():
    """As where a batch is swept and the budget is in steps."""
    work = judged({("modular", 1e-3): [0.2], ("modular", 2e-3): [0.1]})
    assert not any("numbers of images" in note for note in work.notes)
    trials = work.approaches[0].trials
    changed = replace(work.approaches[0], trials=(trials[0], replace(trials[1], images=7)))
    assert any("different numbers of images" in note for note in sweep._notes([changed], Config()))


def test_unequal_batches_are_noted():
    work = judged({("modular", 1e-3): [0.2], ("modular", 2e-3): [0.1]})
    trials = work.approaches[0].trials
    changed = replace(work.approaches[0], trials=(trials[0], replace(trials[1], batches="other")))
    assert any("different batches" in note for note in sweep._notes([changed], Config()))


# ----------------------------------------------------------------------------------------------------- one for real


@pytest.mark.slow
def test_two_approaches_for_real(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    from tests.bench import stand_ins
    from tests.bench.conftest import micro

    stand_ins.work_here(monkeypatch)
    config = micro(tmp_path)
    config = replace(config, evaluate=replace(config.evaluate, other_texts=()))
    code, found = swept(tmp_path, config, "dual_tower", "modular", values=("1e-4", "3e-3"), steps=4)
    assert (code, found.status) == (0, "done")
    assert len({trial.batches for tuned in found.approaches for trial in tuned.trials}) == 1
    for tuned in found.approaches:
        assert tuned.effort.steps == 2 * 4 and tuned.effort.images == 2 * 4 * 6
        assert tuned.effort.flops > 0 and tuned.effort.seconds > tuned.effort.train_seconds > 0
        losses = {trial.value: trial.metrics["validation_loss"].value or 0.0 for trial in tuned.trials}
        assert len(set(losses.values())) == 2 and tuned.chosen == min(losses, key=lambda value: losses[value])
        assert all(trial.metrics["perplexity_retention"].value == 1.0 for trial in tuned.trials)
        assert {"caption_gap", "caption_loss"} <= set(tuned.trials[0].metrics)
