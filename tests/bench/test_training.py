"""An approach's training: exact over parts and processes, bit-exact over stops, and nothing frozen moves."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters

from approaches.base import Approach, Batch, Generators, Loss, ParameterGroup, Shared
from approaches.settings import Settings
from bench.batches import Batches
from bench.config import Config, DataConfig, TextConfig, TrainConfig
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.data.text import TextFile
from bench.errors import UserError
from bench.meter import Meter
from bench.trainee import Budget
from bench.trainer import NonFiniteLossError, averaged, install
from bench.training import Trained, compiles, optimizers_of, precision, train
from tests.approaches.small import small_shared

ROOT = Path(__file__).resolve().parents[2]
STEPS, STOP = 10, 6
CONFIG = Config(
    data=DataConfig(train_items=40),
    text=TextConfig(name="file"),
    train=TrainConfig(
        budget="steps", amount=STEPS, batch=12, warmup=3, ema=0.6, weight_decay=0.1, replay_tokens=8,
        validations=3, checkpoint_seconds=0.0, precision="fp32",
    ),
)  # fmt: skip


class Fake(Approach):
    """A small drawing network and a small reading one, with a vector and a group of its own, over a language model that
    stays frozen. Words count by row, so that parts of a batch have counts of their own."""

    def __init__(self, shared: Shared, settings: Settings) -> None:
        super().__init__(shared, settings)
        self.language_model.requires_grad_(False)
        with shared.fresh("fake"):
            self.draw = nn.Sequential(nn.Linear(256, 32), nn.Tanh(), nn.Linear(32, 256))
            self.read = nn.Linear(256, 64)
            self.gain = nn.Parameter(torch.randn(64))

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """Both terms."""
        x_0 = batch.draw.latents.repeat_interleave(batch.levels, 0)
        x_t = self.shared.diffusion.add_noise(x_0, batch.noise, batch.times)
        kept = (torch.rand(len(x_t), 1, generator=generators("dropout")) < 0.7).to(x_t.device)
        target = self.shared.diffusion.target(x_0, batch.noise, batch.times)
        drawn = self.shared.diffusion.loss(self.draw(x_t.flatten(1) * kept).view_as(target), target)
        words, mask = batch.describe.targets % 64, batch.describe.targets >= 0
        logits = (self.read(batch.describe.latents.flatten(1)) * self.gain)[:, None].expand(*words.shape, 64)
        read = nn.functional.cross_entropy(logits[mask], words[mask], reduction="sum")
        return {
            "diffusion": Loss(drawn.sum(), len(drawn)),
            "caption": Loss(read, mask.sum(), weight=self.settings.caption_weight),
        }

    def parameter_groups(self) -> list[ParameterGroup]:
        """Two rates."""
        return [
            ParameterGroup(name="new", parameters=(*self.draw.parameters(), self.gain)),
            ParameterGroup(name="slow", parameters=tuple(self.read.parameters()), ratio=0.5),
        ]

    def blocks(self) -> list[nn.Module]:
        """The layers."""
        return [self.draw]


@lru_cache(maxsize=1)
def models() -> Shared:
    return small_shared()


def batches_of(config: Config) -> Batches:
    shared = models()
    path = Path(os.environ["BENCH_CACHE"]) / "text.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(f"paragraph {i} of {i * i}" * 60 for i in range(80)), encoding="utf-8")
    corpus = TextFile.build(replace(config.text, path=str(path)))
    dataset = open_dataset(config.data, "train")
    console = Console(interval=1e9)
    return Batches(config, dataset, corpus, shared.language_model, shared.codecs["image"], console)


@dataclass
class Training:
    """One training of Fake."""

    config: Config = CONFIG
    settings: Settings = field(default_factory=lambda: Settings(learning_rate=1e-2, caption_weight=0.3))
    approach: Fake = field(init=False)
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self.approach = Fake(models(), self.settings)

    def validate(self) -> dict[str, float]:
        """Whose weights they are."""
        assert not self.approach.training and not torch.is_grad_enabled()
        return {"weights": weighed(self.approach.trained_state())}

    def run(self, path: Path, *, before: Callable[[int], object] | None = None, key: str = "k", **more: Any) -> Trained:
        """Train. before: called ahead of each batch."""
        batches = batches_of(self.config)
        source: Any = batches
        if before is not None:
            source = Watched(batches, before)
        console = Console(interval=1e9)
        return train(
            self.approach, source, self.config, path=path, key=key, validate=self.validate, console=console,
            meter=self.meter, **more,
        )  # fmt: skip


class Watched:
    """Batches that tell when one is asked for."""

    def __init__(self, batches: Batches, before: Callable[[int], object]) -> None:
        self.batches, self.before = batches, before

    def __call__(self, step: int) -> Batch:
        self.before(step)
        return self.batches(step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)


def weighed(state: dict[str, Tensor]) -> float:
    return sum(float(value.double().sum()) for value in state.values())


def copy(approach: Approach) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in approach.trained_state().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def changed(**train_fields: Any) -> Config:
    return replace(CONFIG, train=replace(CONFIG.train, **train_fields))


def meta_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return cast(dict[str, Any], json.loads(file.metadata()["meta"]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Trained, Path]:
    """A training that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "c.safetensors"
    training = Training()
    return training, training.run(path), path


def test_the_first_step_is_the_closed_form_of_the_loss(tmp_path: Path) -> None:
    """Sum over terms of weight * sum / count, by hand, and one AdamW step of each group's own rate."""
    training = Training(changed(amount=1, warmup=0, validations=1, optimizer="adamw"))
    reference = Fake(models(), training.settings)
    batches = batches_of(training.config)
    rows, losses = 8 * CONFIG.train.noise_levels, reference.losses(batches(0), batches.generators(0))
    expected = losses["diffusion"].sum / rows + 0.3 * losses["caption"].sum / float(losses["caption"].count)
    expected.backward()
    nn.utils.clip_grad_norm_([p for p in reference.parameters() if p.requires_grad], training.config.train.clip)
    before = copy(training.approach)
    trained = training.run(tmp_path / "c.safetensors")
    expected = expected.detach()
    assert trained.losses[0]["loss"] == pytest.approx(float(expected), rel=1e-6)
    assert list(trained.losses[0]) == ["step", "loss", "diffusion", "caption"]
    assert trained.losses[0]["diffusion"] == pytest.approx(float(losses["diffusion"].sum.detach()) / rows, rel=1e-6)
    caption = losses["caption"]  # as it is, without its weight
    assert trained.losses[0]["caption"] == pytest.approx(float(caption.sum.detach() / caption.count), rel=1e-6)
    after = training.approach.trained_state()
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            rate = 1e-2 * (0.5 if name.startswith("read") else 1.0)
            decay = 0.1 * rate if parameter.ndim >= 2 else 0.0
            moved = before[name] * (1 - decay) - rate * parameter.grad / (parameter.grad.abs() + 1e-8)
            torch.testing.assert_close(after[name], moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation_changes_nothing(whole: tuple[Training, Trained, Path], tmp_path: Path, parts: int) -> None:
    plain, trained, _ = whole
    other = Training(changed(accumulation=parts))
    again = other.run(tmp_path / "c.safetensors")
    for name, value in plain.approach.trained_state().items():
        # Adam divides a gradient by its own size: rounding in a tiny one moves a weight as far as any
        torch.testing.assert_close(other.approach.trained_state()[name], value, rtol=1e-3, atol=2e-5)
    for row, expected in zip(again.losses, trained.losses, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    assert (again.digest, again.images) == (trained.digest, trained.images)


class Telling(Fake):
    """One that tells the counts of its losses ahead, and so works through no part twice."""

    passes = 0

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """See Approach."""
        type(self).passes += 1
        return super().losses(batch, generators)

    def counts(self, batch: Batch) -> dict[str, Tensor | float]:
        """See Approach. In another order than the losses'."""
        return {"caption": (batch.describe.targets >= 0).sum(), "diffusion": len(batch.times)}


def test_counts_told_ahead_spare_a_pass_and_change_nothing() -> None:
    from bench.training import ApproachTrainee, accelerator_for

    config = changed(accumulation=4)
    found = []
    for kind in (Fake, Telling):
        approach = kind(models(), Settings(caption_weight=0.3))
        trainee = ApproachTrainee(approach, batches_of(config), config, accelerator_for(config, Path()))
        Telling.passes = 0
        numbers = trainee.gradients(4)
        found.append([numbers, *(p.grad for p in approach.parameters() if p.grad is not None)])
    assert Telling.passes == 4
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_gradients_of_parts_add_up_exactly() -> None:
    """One step's gradient: the parts have different numbers of words, and the mean is over all of them."""
    from bench.training import ApproachTrainee, accelerator_for

    found: list[dict[str, Tensor]] = []
    for parts in (1, 2, 4):
        config = changed(accumulation=parts)
        approach = Fake(models(), Settings(caption_weight=0.3))
        trainee = ApproachTrainee(approach, batches_of(config), config, accelerator_for(config, Path()))
        trainee.gradients(4)
        found.append({n: p.grad.clone() for n, p in approach.named_parameters() if p.grad is not None})
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_cut_to_the_configs_norm() -> None:
    """One step of Adam from nothing does not show it: it divides a gradient by its own size."""
    from bench.training import ApproachTrainee, accelerator_for

    config = changed(clip=0.01)
    approach = Fake(models(), Settings())
    trainee = ApproachTrainee(approach, batches_of(config), config, accelerator_for(config, Path()))
    trainee.gradients(0)

    def norm() -> float:
        return float(torch.stack([p.grad.norm() for p in approach.parameters() if p.grad is not None]).norm())

    before = norm()
    assert before > 0.02 and float(trainee.clipped()) == pytest.approx(before, rel=1e-5)
    assert norm() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_second_moment_decays_as_the_config_says(optimizer: Any) -> None:
    adamw = optimizers_of(Fake(models(), Settings()), changed(optimizer=optimizer, beta2=0.9))[0]
    assert {group["betas"] for group in adamw.param_groups} == {(0.9, 0.9)}


def interrupt(step: int) -> None:
    if step == STOP:
        raise KeyboardInterrupt


def die(step: int) -> None:
    if step == STOP:
        os.kill(os.getpid(), signal.SIGKILL)


def assert_same(whole: tuple[Training, Trained, Path], other: tuple[Training, Trained, Path]) -> None:
    (one, trained, path), (two, again, second) = whole, other
    assert differing(one.approach.trained_state(), two.approach.trained_state()) == []
    assert differing(trained.average, again.average) == []
    assert (trained.curve, trained.losses, trained.digest) == (again.curve, again.losses, again.digest)
    assert (trained.steps, trained.images, trained.frozen_hash) == (again.steps, again.images, again.frozen_hash)
    timings = {"meter", "seconds", "spent"}
    kept = [{k: v for k, v in meta_of(each).items() if k not in timings} for each in (path, second)]
    assert kept[0] == kept[1]


def test_an_interrupted_training_goes_on_bit_by_bit(whole: tuple[Training, Trained, Path], tmp_path: Path) -> None:
    path, resumed = tmp_path / "c.safetensors", Training()
    with pytest.raises(KeyboardInterrupt):
        Training().run(path, before=interrupt)
    assert meta_of(path)["step"] == STOP
    assert_same(whole, (resumed, resumed.run(path), path))
    assert len(resumed.meter.laps) == STEPS - 6  # of each process the first three don't count


def test_a_killed_training_goes_on_bit_by_bit(whole: tuple[Training, Trained, Path], tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.bench.test_training import Training, die\nTraining().run(Path(sys.argv[1]), before=die)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert meta_of(path)["step"] == STOP
    resumed = Training()
    assert_same(whole, (resumed, resumed.run(path), path))


def test_the_checkpoint_holds_what_is_trained_and_nothing_else(whole: tuple[Training, Trained, Path]) -> None:
    training, trained, path = whole
    with safe_open(path, "pt") as file:
        names = set(file.keys())
    weights = set(training.approach.trained_state())
    assert {name.removeprefix("model/") for name in names if name.startswith("model/")} == weights
    assert {name.removeprefix("ema/") for name in names if name.startswith("ema/")} == weights == set(trained.average)
    slots = {name.split("/")[-1] for name in names if name.startswith("optimizer0/")}
    assert slots == {"exp_avg", "exp_avg_sq", "step"} and not any("language_model" in name for name in names)
    meta = meta_of(path)
    assert meta["step"] == STEPS and meta["digest"] == trained.digest and meta["frozen_hash"] == trained.frozen_hash


def test_other_frozen_weights_another_key_or_width_refuse_the_checkpoint(
    whole: tuple[Training, Trained, Path], tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(whole[2].read_bytes())
    other = Training()
    with pytest.raises(UserError, match="another training"):
        other.run(path, key="other")
    wide = Training()
    wide.approach.read = nn.Linear(256, 65)
    with pytest.raises(UserError, match=r"model/read\.bias"):
        wide.run(path)
    other.approach.shared = small_shared()
    other.approach.language_model = other.approach.shared.language_model.requires_grad_(False)
    with torch.no_grad():
        next(other.approach.language_model.parameters())[0, 0] += 1e-3
    own = copy(other.approach)
    with pytest.raises(UserError, match="was trained on frozen weights"):
        other.run(path)
    assert differing(own, other.approach.trained_state()) == []


def test_frozen_weights_that_change_are_a_bug_that_is_told(tmp_path: Path) -> None:
    training = Training(changed(amount=2))
    training.approach.shared = small_shared()
    training.approach.language_model = training.approach.shared.language_model.requires_grad_(False)
    weight = next(training.approach.language_model.parameters())

    def spoil(step: int) -> None:
        with torch.no_grad():
            weight[0, 0] += 1e-3

    told = r"step 1: frozen weights or buffers of \w+ changed: language_model.transformer.embed.weight; a checkpoint"
    with pytest.raises(UserError, match=told):
        training.run(tmp_path / "c.safetensors", before=spoil)


def test_frozen_weights_that_change_late_are_told_at_the_end(tmp_path: Path) -> None:
    training = Training(changed(amount=3))
    training.approach.shared = small_shared()
    training.approach.language_model = training.approach.shared.language_model.requires_grad_(False)
    weight = next(training.approach.language_model.parameters())

    def spoil(step: int) -> None:
        if step == 2:
            with torch.no_grad():
                weight[0, 0] += 1e-3

    with pytest.raises(UserError, match=r"training: frozen weights or buffers of \w+ changed: language_model"):
        training.run(tmp_path / "c.safetensors", before=spoil)


def test_a_buffer_that_runs_along_is_refused_unless_the_state_leaves_it_out(tmp_path: Path) -> None:
    for kept in (True, False):
        training = Training(changed(amount=3))
        training.approach.register_buffer("ran", torch.zeros(1), persistent=kept)

        def run(step: int, approach: Any = training.approach) -> None:
            approach.ran += 1

        if not kept:
            training.run(tmp_path / "left_out.safetensors", before=run)
            continue
        with pytest.raises(UserError, match=r"step 1: .* buffers of \w+ changed: ran; a checkpoint"):
            training.run(tmp_path / "c.safetensors", before=run)


def test_the_average_is_of_trained_weights_and_validated(whole: tuple[Training, Trained, Path]) -> None:
    training, trained, _ = whole
    assert [row["step"] for row in trained.curve] == [4, 7, 10] and trained.images == 120
    assert trained.curve[-1]["weights"] == weighed(trained.average)
    own = copy(training.approach)
    with averaged(training.approach, trained.average, training.approach.trained_state()):
        assert differing(trained.average, training.approach.trained_state()) == []
    assert differing(own, training.approach.trained_state()) == []
    other = Training()
    install(trained.average, other.approach.trained_state())
    assert differing(trained.average, copy(other.approach)) == []


@pytest.mark.parametrize("lag", [0, 3])
def test_a_loss_that_is_not_finite_stops_with_its_step_and_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    """With a lag, as on an accelerator, the loss is looked at late, and no checkpoint is written before that."""
    path, training = tmp_path / "c.safetensors", Training()
    losses = Fake.losses

    def spoiled(self: Fake, batch: Batch, generators: Generators) -> dict[str, Loss]:
        found = losses(self, batch, generators)
        bad = math.nan if batch.step == STOP else 1.0
        return {**found, "caption": replace(found["caption"], sum=found["caption"].sum * bad)}

    monkeypatch.setattr(Fake, "losses", spoiled)
    if lag:
        from bench import training as module

        made = module.ApproachTrainee.__init__

        def late(self: Any, *rest: Any) -> None:
            made(self, *rest)
            self.lag = lag

        monkeypatch.setattr(module.ApproachTrainee, "__init__", late)
    with pytest.raises(NonFiniteLossError, match=f"nan at step {STOP}.*{path}"):
        training.run(path)
    assert meta_of(path)["step"] == (STOP if lag == 0 else 4)
    monkeypatch.undo()
    resumed = Training()
    trained = resumed.run(path)
    assert all(bool(value.isfinite().all()) for value in trained.average.values())


def test_looking_late_changes_no_weight(
    whole: tuple[Training, Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import training as module

    made = module.ApproachTrainee.__init__

    def late(self: Any, *rest: Any) -> None:
        made(self, *rest)
        self.lag = 3

    monkeypatch.setattr(module.ApproachTrainee, "__init__", late)
    path, training = tmp_path / "c.safetensors", Training()
    assert_same(whole, (training, training.run(path), path))
    assert sum(steps for _, steps in training.meter.laps) < STEPS and len(training.meter.laps) < STEPS - 3


def test_budgets_are_steps_of_what_they_count() -> None:
    def steps(budget: Any, amount: float, flops: float = 0.0) -> int | None:
        return Budget.of(changed(budget=budget, amount=amount).train, flops).steps

    assert (steps("steps", 70), steps("images", 44_800), steps("images", 11)) == (70, 44_800 // 12, 1)
    assert steps("images", 23) == 1  # as many as fit into it
    assert steps("images", 12 * 450 * 0.7) == 315 and steps("steps", 450 * (65 / 450)) == 65  # rounding takes none
    assert steps("flops", 1e9, 3e7) == 33 and steps("seconds", 5) is None
    with pytest.raises(ValueError, match="needs the FLOPs of a step"):
        steps("flops", 1e9)


def test_a_budget_of_seconds_ends_with_them_and_decays_by_them(tmp_path: Path) -> None:
    training = Training(changed(budget="seconds", amount=0.6, warmup=1))
    trained = training.run(tmp_path / "c.safetensors")
    assert training.meter.seconds >= 0.6 and 1 <= trained.steps < 2000  # a stalled machine may do one
    assert trained.curve[-1]["step"] == trained.steps and len(trained.curve) <= 3
    again = Training(training.config)
    assert again.run(tmp_path / "c.safetensors").steps == trained.steps  # spent is spent


def test_groups_must_hold_every_trained_parameter_once() -> None:
    approach = Fake(models(), Settings())
    groups = approach.parameter_groups()
    stranger = replace(groups[0], parameters=(nn.Parameter(torch.zeros(1)),))
    for wrong, told in (
        ([groups[0]], "in none is "),
        ([*groups, groups[0]], "in several is "),
        ([*groups, stranger], "1 in them are not trained, or not the approach's"),
    ):
        approach.parameter_groups = lambda wrong=wrong: wrong  # type: ignore[method-assign,misc]
        with pytest.raises(UserError, match=f"every trained parameter once: {told}"):
            optimizers_of(approach, CONFIG)


def test_precision_and_trackers_are_judged() -> None:
    cpu = torch.device("cpu")
    assert [precision(changed(precision=p), cpu) for p in ("auto", "fp32", "bf16")] == ["no", "no", "bf16"]
    with pytest.raises(UserError, match="unknown tracker 'tensorbord': did you mean 'tensorboard'"):
        Training(changed(tracker="tensorbord")).run(Path("never"))


def test_a_tracker_gets_both_curves(whole: tuple[Training, Trained, Path], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = Training(changed(tracker="tensorboard")).run(tmp_path / "c.safetensors")
    events = EventAccumulator(str(tmp_path / "draw-bench")).Reload()
    for name, rows in (("diffusion", trained.losses), ("weights", trained.curve)):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(row["step"], pytest.approx(row[name])) for row in rows]
    assert trained.losses == whole[1].losses


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="needs a C++ compiler (g++ or clang++) for torch.compile",
)
def test_compiled_blocks_train_the_same(whole: tuple[Training, Trained, Path], tmp_path: Path) -> None:
    compiled = Training(changed(compile="on"))
    trained = compiled.run(tmp_path / "c.safetensors")
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    compiled.approach.eval()
    with torch.no_grad():
        compiled.approach.draw(torch.zeros(5, 256))
    assert counters["stats"]["unique_graphs"] == graphs  # sampling, of ever new shapes, is left as it is
    assert set(trained.average) == set(whole[1].average)
    for row, expected in zip(trained.losses, whole[1].losses, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


def test_blocks_are_compiled_where_that_is_wanted_and_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    wanted: dict[str, Any] = {way: changed(compile=way) for way in ("auto", "on", "off")}
    monkeypatch.setattr("bench.training.compile_obstacle", lambda device: "")
    assert [compiles(wanted[way], cpu) for way in wanted] == [False, True, False]
    assert [compiles(wanted[way], cuda) for way in wanted] == [True, True, False]
    monkeypatch.setattr("bench.training.compile_obstacle", lambda device: "needs a thing")
    assert not compiles(wanted["auto"], cuda) and not compiles(wanted["off"], cuda)
    with pytest.raises(UserError, match="train.compile is on, which needs a thing: take auto or off"):
        compiles(wanted["on"], cuda)


def test_bf16_trains_nearly_the_same(whole: tuple[Training, Trained, Path], tmp_path: Path) -> None:
    AcceleratorState._reset_state(True)
    try:
        trained = Training(changed(precision="bf16")).run(tmp_path / "c.safetensors")
    finally:
        AcceleratorState._reset_state(True)
    pairs = list(zip(trained.losses, whole[1].losses, strict=True))
    assert all(row["loss"] == pytest.approx(expected["loss"], rel=0.02) for row, expected in pairs)
    assert any(row["loss"] != expected["loss"] for row, expected in pairs)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the variables of accelerate's launcher, over gloo. Dropout is off, for each process draws its own."""
    code = (
        "import sys; from pathlib import Path; from safetensors.torch import save_file\n"
        "from tests.bench import test_training as t\n"
        "t.torch.rand = t.zeros; folder = Path(sys.argv[1])\n"
        "training = t.Training(t.changed(amount=4)); trained = training.run(folder / 'c.safetensors')\n"
        "rank = t.os.environ['RANK']\n"
        "save_file(t.copy(training.approach), folder / f'weights{rank}.safetensors')\n"
        "(folder / f'curve{rank}.json').write_text(t.json.dumps([trained.curve, trained.digest]))\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, **launched, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]
    monkeypatch.setattr(torch, "rand", zeros)
    one = Training(changed(amount=4))
    trained = one.run(tmp_path / "one.safetensors")
    for process in started:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error.decode()
    for rank in (0, 1):
        for name, value in load_file(tmp_path / f"weights{rank}.safetensors").items():
            torch.testing.assert_close(value, one.approach.trained_state()[name], rtol=1e-3, atol=2e-5)
        curve, digest = json.loads((tmp_path / f"curve{rank}.json").read_text())
        assert digest == trained.digest
        losses = [[row["train_loss"] for row in rows] for rows in (curve, trained.curve)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def zeros(
    *shape: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """In place of torch.rand, but where a device is named, as for training times."""
    if device is not None:
        return torch.empty(*shape, dtype=dtype, device=device).uniform_(generator=generator)
    return torch.zeros(*shape, dtype=dtype)
