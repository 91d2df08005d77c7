"""The training loop against closed forms, and a training that is stopped against one that is not."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from approaches.shared.randomness import generator
from bench import checkpoint
from bench.config import OptimizerConfig
from bench.console import Console
from bench.errors import UserError
from bench.meter import Meter
from bench.trainee import Budget, decayed
from bench.trainer import Fitted, Fitting, NonFiniteLossError, _Module, adamw, averaged, convergence, fit

ROOT = Path(__file__).resolve().parents[2]
STEPS, STOP = 20, 13
CONFIG = OptimizerConfig(steps=STEPS, batch=8, lr=1e-2, warmup=4, weight_decay=0.1, ema=0.6)

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.bench.test_trainer import STOP, Training

def die(step):
    if step == STOP:
        os.kill(os.getpid(), signal.SIGKILL)

Training().run(Path(sys.argv[1]), before=die)
"""


class Tiny(nn.Module):
    """What makes a state hard to save: tied weights, a float buffer and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4))
        self.body[3].weight = self.body[0].weight
        self.head = nn.Linear(4, 2)
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator(0, name)))

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.head(self.body(x))
        return value


@dataclass
class Training:
    """One training of Tiny by two kinds of optimizer."""

    config: OptimizerConfig = CONFIG
    model: Tiny = field(default_factory=Tiny)
    optimizers: list[torch.optim.Optimizer] = field(init=False)

    def __post_init__(self) -> None:
        momentum = torch.optim.SGD(self.model.head.parameters(), lr=0.05, momentum=0.9)
        self.optimizers = [adamw(self.model.body, self.config), momentum]

    def loss(self, step: int) -> Tensor:
        """A function of the step's number and the weights alone."""
        noise = generator(1, "batch", step)
        x, y = torch.randn(8, 4, generator=noise), torch.randn(8, 2, generator=noise)
        return (self.model(x) - y).square().mean()

    def evaluate(self) -> dict[str, float]:
        """The sum of the parameters, which tells whose weights they are."""
        return {"weights": sum(float(p.detach().sum()) for p in self.model.parameters())}

    def run(
        self,
        path: Path,
        *,
        before: Callable[[int], object] = lambda step: None,
        spoil: Callable[[int, Tensor], Tensor] = lambda step, loss: loss,
        key: str = "k1",
        checkpoint_seconds: float = 0.0,
    ) -> Fitted:
        """Train. before: called ahead of each loss; spoil: changes the loss."""

        def loss(step: int) -> Tensor:
            before(step)
            return spoil(step, self.loss(step))

        return fit(
            self.model,
            loss,
            config=self.config,
            optimizers=self.optimizers,
            evaluate=self.evaluate,
            evaluations=5,
            path=path,
            key=key,
            console=Console(interval=1e9),
            description="tiny",
            checkpoint_seconds=checkpoint_seconds,
        )


def interrupt(step: int) -> None:
    if step == STOP:
        raise KeyboardInterrupt


def copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if one[name].dtype != other[name].dtype or not torch.equal(one[name], other[name])]


def stored_step(path: Path) -> int:
    """How far the checkpoint is, read with objects of its own."""
    other = Training()
    average = copy(other.model)
    meta = checkpoint.load(
        path, weights=other.model.state_dict(), average=average, optimizers=other.optimizers, key="k1"
    )
    return int(meta["step"])


def assert_same(path: Path, resumed: Training, fitted: Fitted) -> None:
    whole = Training()
    expected = whole.run(path.with_name("whole.safetensors"))
    assert differing(whole.model.state_dict(), resumed.model.state_dict()) == []
    assert differing(expected.average, fitted.average) == []
    assert expected.curve == fitted.curve
    assert [row["step"] for row in fitted.curve] == [4, 8, 12, 16, 20]
    assert not list(path.parent.glob("*.part")) and not list(path.parent.glob(".*.part"))


def schedule(step: int, config: OptimizerConfig) -> float:
    return decayed(step, config.warmup, (step - config.warmup) / max(1, config.steps - config.warmup))


@pytest.mark.parametrize(("warmup", "steps"), [(0, 40), (1, 17), (10, 50), (50, 50)])
def test_schedule_is_linear_then_half_a_cosine(warmup: int, steps: int) -> None:
    config = OptimizerConfig(steps=steps, warmup=warmup)
    for step in range(warmup):
        assert schedule(step, config) == pytest.approx((step + 1) / warmup)
    assert schedule(warmup, config) == pytest.approx(1.0)
    for late in range(steps - warmup + 1):
        # 0.5 (1 + cos t) = cos(t / 2)^2
        angle = math.pi * late / max(1, steps - warmup)
        assert schedule(warmup + late, config) == pytest.approx(0.01 + 0.99 * math.cos(angle / 2) ** 2)
    if warmup < steps:
        assert schedule(steps, config) == schedule(10 * steps, config) == pytest.approx(0.01)


def test_every_optimizer_follows_the_schedule_of_its_own_peak_also_when_resumed(tmp_path: Path) -> None:
    path, seen = tmp_path / "c.safetensors", list[tuple[int, list[float]]]()
    first, second = Training(), Training()

    def note(training: Training, step: int) -> None:
        seen.append((step, [group["lr"] for each in training.optimizers for group in each.param_groups]))

    def before(step: int) -> None:
        interrupt(step)
        note(first, step)

    with pytest.raises(KeyboardInterrupt):
        first.run(path, before=before)
    second.run(path, before=lambda step: note(second, step))
    assert [step for step, _ in seen] == list(range(STEPS))
    for step, rates in seen:
        share = schedule(step, CONFIG)
        assert rates == pytest.approx([1e-2 * share, 1e-2 * share, 0.05 * share])


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Training().run(path, before=interrupt)
    assert stored_step(path) == STOP
    resumed = Training()
    assert_same(path, resumed, resumed.run(path))


def test_a_killed_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, capture_output=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert stored_step(path) == STOP
    resumed = Training()
    assert_same(path, resumed, resumed.run(path))


def test_a_resumed_training_took_the_seconds_of_both_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    for before in (interrupt, lambda step: None):
        ticks = itertools.count()  # each process has a clock of its own
        monkeypatch.setattr("bench.trainer.now", lambda ticks=ticks: float(next(ticks)))
        try:
            fitted = Training().run(path, before=before)
        except KeyboardInterrupt:
            with safe_open(path, "pt") as file:
                taken = json.loads(file.metadata()["meta"])["seconds"]
    assert taken > STOP and fitted.seconds > taken


@dataclass
class Simple:
    """A training of one number, whose loss is the step's number, on a clock of its own: a step takes the next of
    `laps`, an evaluation 100 seconds, a checkpoint 1000."""

    budget: Budget
    laps: Iterator[float]
    clock: float = 0.0
    saved: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def run(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, *, checkpoint_seconds: float = 1e9
    ) -> tuple[Fitted, Meter]:
        """Train, and measure it."""
        for module in ("bench.trainer", "bench.meter"):
            monkeypatch.setattr(f"{module}.now", lambda: self.clock)
        monkeypatch.setattr(checkpoint, "save", self.save)
        model = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        trainee = _Module(model, [self.optimizer], weights=model.state_dict(), warmup=1, ema=0.0)
        trainee.loss = lambda step: self.loss(model, step)
        meter = Meter(warmup=0)
        fitted = Fitting(
            trainee=trainee, budget=self.budget, evaluate=self.evaluate, evaluations=5, path=path, key="k",
            console=Console(interval=1e9), description="simple", checkpoint_seconds=checkpoint_seconds, meter=meter,
        ).train()  # fmt: skip
        return fitted, meter

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """See the class."""
        self.clock += next(self.laps)
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return 0 * torch.stack([p.sum() for p in model.parameters()]).sum() + step

    def evaluate(self) -> dict[str, float]:
        """See the class."""
        self.clock += 100
        return {}

    def save(self, path: Path, *, meta: dict[str, Any], **_: Any) -> None:
        """See the class."""
        self.clock += 1000
        self.saved.append(meta["step"])


def test_neither_evaluations_nor_checkpoints_are_training_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Simple(Budget(steps=10), itertools.repeat(1.0))
    fitted, meter = training.run(tmp_path / "c", monkeypatch, checkpoint_seconds=2.5)
    assert meter.seconds == 10 and meter.laps == [(1.0, 1)] * 10
    assert [row["step"] for row in fitted.curve] == [2, 4, 6, 8, 10]
    assert training.saved == [2, 4, 6, 8, 10]  # evaluations count as work that a kill would lose
    rare = Simple(Budget(steps=10), itertools.repeat(1.0))
    assert rare.run(tmp_path / "e", monkeypatch)[1].seconds == 10 and rare.saved == [10]
    often = Simple(Budget(steps=40), itertools.repeat(1.0))
    often.run(tmp_path / "d", monkeypatch, checkpoint_seconds=2.5)
    assert often.saved == [3, 6, 8, 11, 14, 16, 19, 22, 24, 27, 30, 32, 35, 38, 40]


def test_a_row_of_the_loss_curve_is_the_mean_since_the_row_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, _ = Simple(Budget(steps=300), itertools.repeat(1.0)).run(tmp_path / "c", monkeypatch)
    assert fitted.losses == [{"step": step, "loss": step - 2.0} for step in range(3, 301, 3)]
    assert fitted.curve[0] == {"step": 60, "train_loss": 59.0}


def test_seconds_decide_the_schedule_and_the_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Simple(Budget(seconds=10.0), iter([6.0, 1.0, 0.5, 5.0]))
    fitted, _ = training.run(tmp_path / "c", monkeypatch)
    assert [row["step"] for row in fitted.curve] == [1, 4]  # three of five occasions came in the first step
    # the warm-up is the first step; the cosine is over the four seconds that it left
    assert training.rates == pytest.approx([1.0, *(decayed(1, 1, share) for share in (0.0, 1 / 4, 1.5 / 4))])
    assert [Budget(seconds=10.0).ticks(0, seconds, 5) for seconds in (1.9, 2.0, 5.9, 10.0, 11.0)] == [0, 1, 2, 5, 5]


def test_a_finished_training_is_read_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    first, again = Training(), Training()
    fitted = first.run(path, checkpoint_seconds=1e9)

    def never(step: int) -> None:
        raise AssertionError(step)

    repeated = again.run(path, before=never)
    assert differing(first.model.state_dict(), again.model.state_dict()) == []
    assert differing(fitted.average, repeated.average) == [] and fitted.curve == repeated.curve
    assert repeated.seconds >= fitted.seconds


def test_a_checkpoint_of_another_key_is_refused_by_name_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Training().run(path)
    before, other = path.read_bytes(), Training()
    own = copy(other.model)
    with pytest.raises(UserError) as caught:
        other.run(path, key="k2")
    assert all(word in str(caught.value) for word in (str(path), "k1", "k2"))
    assert path.read_bytes() == before and differing(own, other.model.state_dict()) == []


def widened(model: Tiny) -> None:
    model.head = nn.Linear(4, 3)


def extended(model: Tiny) -> None:
    model.extra = nn.Linear(4, 2)


@pytest.mark.parametrize(("change", "name"), [(widened, "model/head"), (extended, "model/extra")])
@pytest.mark.parametrize("stored_changed", [False, True])
def test_a_checkpoint_of_other_shapes_is_refused_with_its_path(
    tmp_path: Path, change: Callable[[Tiny], None], name: str, stored_changed: bool
) -> None:
    path = tmp_path / "c.safetensors"
    stored, other = Tiny(), Tiny()
    change(stored if stored_changed else other)
    checkpoint.save(path, weights=stored.state_dict(), average={}, optimizers=[], meta={"key": "k1"})
    own = copy(other)
    with pytest.raises(UserError, match=f"{name}.*(shape|absent)") as caught:
        checkpoint.load(path, weights=other.state_dict(), average={}, optimizers=[], key="k1")
    assert str(path) in str(caught.value) and differing(own, other.state_dict()) == []


def test_a_checkpoint_of_another_number_of_optimizers_is_refused_with_its_path(tmp_path: Path) -> None:
    path, training = tmp_path / "c.safetensors", Training()
    training.run(path)
    with pytest.raises(UserError, match="2 optimizers, this training has 1") as caught:
        checkpoint.load(
            path,
            weights=training.model.state_dict(),
            average=copy(training.model),
            optimizers=training.optimizers[:1],
            key="k1",
        )
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused_with_its_path(tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.safetensors"
    Training().run(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    other = Training()
    own = copy(other.model)
    with pytest.raises(UserError, match="c.safetensors") as caught:
        other.run(path)
    assert str(path) in str(caught.value)
    assert differing(own, other.model.state_dict()) == []


def test_a_term_that_nothing_counted_for_in_a_step_is_a_mean_over_the_others() -> None:
    trainee = SimpleNamespace(names=("loss", "prompt", "never"), log=lambda row: None)
    budget = SimpleNamespace(ticks=lambda step, spent, of: step // 3)
    run: Any = SimpleNamespace(
        meta={"window": [], "recorded": 0, "losses": [], "spent": 0}, trainee=trainee, budget=budget
    )
    for step, row in enumerate(
        [[1.0, 6.0, math.nan], [2.0, math.nan, math.nan], [6.0, 8.0, math.nan], [5.0, 1.0, 2.0]]
    ):
        Fitting._record(run, step + 1, row)
    assert run.meta["losses"] == [{"step": 3, "loss": 3.0, "prompt": 7.0}]
    assert run.meta["window"] == [[1, 5.0], [1, 1.0], [1, 2.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_loss_that_is_not_finite_ends_the_training_and_leaves_the_weights(
    tmp_path: Path, bad: float, checkpointed: bool
) -> None:
    path, training = tmp_path / "c.safetensors", Training()
    seen: list[dict[str, Tensor]] = []
    with pytest.raises(NonFiniteLossError) as caught:
        training.run(
            path,
            before=lambda step: seen.append(copy(training.model)),
            spoil=lambda step, loss: loss * bad if step == STOP else loss,
            checkpoint_seconds=0.0 if checkpointed else 1e9,
        )
    assert f"step {STOP}" in str(caught.value)
    assert (str(path) if checkpointed else "no checkpoint yet") in str(caught.value)
    learned = [name for name, _ in training.model.named_parameters()]
    assert all(torch.equal(training.model.state_dict()[name], seen[STOP][name]) for name in learned)
    if checkpointed:  # what the message calls good is good: the training goes on from it as if nothing had been
        assert stored_step(path) == STOP
        resumed = Training()
        assert_same(path, resumed, resumed.run(path))


def test_gradients_that_are_not_finite_reach_neither_weights_nor_checkpoint(tmp_path: Path) -> None:
    """The root of zero is a finite loss with an infinite slope."""
    path, training = tmp_path / "c.safetensors", Training()
    with pytest.raises(NonFiniteLossError, match=f"step {STOP}"):
        training.run(path, spoil=lambda step, loss: (loss - loss.detach()).sqrt() if step == STOP else loss)
    assert all(bool(value.isfinite().all()) for value in training.model.state_dict().values())
    resumed = Training()
    assert_same(path, resumed, resumed.run(path))


def test_the_average_follows_its_closed_form(tmp_path: Path) -> None:
    training, seen = Training(), list[dict[str, Tensor]]()
    fitted = training.run(tmp_path / "c.safetensors", before=lambda step: seen.append(copy(training.model)))
    seen.append(copy(training.model))
    decays = [min(CONFIG.ema, (1 + step) / (10 + step)) for step in range(STEPS)]
    assert decays[0] == 0.1 and decays[-1] == CONFIG.ema
    shares = [math.prod(decays)]  # of the first weights, then of those after each step
    shares += [(1 - decays[step]) * math.prod(decays[step + 1 :]) for step in range(STEPS)]
    assert sum(shares) == pytest.approx(1.0)
    for name, value in fitted.average.items():
        if value.is_floating_point():
            states = zip(shares, seen, strict=True)
            expected = torch.stack([share * state[name].double() for share, state in states]).sum(0)
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(value, training.model.state_dict()[name])
    training.model.load_state_dict(fitted.average)
    assert fitted.curve[-1]["weights"] == training.evaluate()["weights"]  # evaluations see the average


def test_without_an_average_the_weights_stand_for_it(tmp_path: Path) -> None:
    training = Training(OptimizerConfig(steps=STEPS, lr=1e-2, warmup=4, ema=0.0))
    fitted = training.run(tmp_path / "c.safetensors")
    assert differing(fitted.average, training.model.state_dict()) == []
    assert fitted.curve[-1]["weights"] == training.evaluate()["weights"]


def test_weight_decay_shrinks_matrices_only() -> None:
    model = Tiny()
    model.head.weight.requires_grad_(False)
    optimizer = adamw(model, CONFIG)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert decay == {id(p): (CONFIG.weight_decay if p.ndim >= 2 else 0.0) for p in trained}
    own = copy(model)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # with no gradient, decay is all that moves a weight
    for name, parameter in model.named_parameters():
        shrunk = parameter.requires_grad and parameter.ndim >= 2
        torch.testing.assert_close(parameter.detach(), own[name] * (1 - 1e-2 * 0.1 if shrunk else 1.0))


@pytest.mark.parametrize("fails", [False, True])
def test_averaged_gives_the_weights_and_the_mode_back(fails: bool) -> None:
    model = Tiny().train()
    model.body[1].eval()  # frozen, as a part of a model may be
    own, average = copy(model), {name: value + 1 for name, value in model.state_dict().items()}
    try:
        with averaged(model, average):
            assert differing(average, model.state_dict()) == []
            assert not model.training and not torch.is_grad_enabled()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert differing(own, model.state_dict()) == []
    assert [module for module in model.modules() if not module.training] == [model.body[1]]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("values", "moved", "flat"),
    [
        ([9.0, 5.0, 2.00, 1.99], "0.5%", True),
        ([9.0, 5.0, 1.99, 2.00], "0.5%", True),
        ([2.0, 2.0, 2.00, 1.90], "5.0%", False),
        ([2.0, 2.0, 1.90, 2.00], "5.3%", False),
        ([-2.0, -2.0, -2.0, -2.1], "5.0%", False),
        ([1.0, 1.0, 0.0, 0.0], "0.0%", True),
    ],
)
def test_a_card_says_flat_when_the_last_quarter_hardly_moved(values: list[float], moved: str, flat: bool) -> None:
    curve = [{"step": 100.0 * (index + 1), "held_out_loss": value} for index, value in enumerate(values)]
    card = convergence(Fitted(curve=curve, seconds=1.4, average={}), "held_out_loss")
    assert f"held out loss moved by {moved}" in card["converged"]
    assert card["converged"].endswith(": flat") == flat and ("not flat" in card["converged"]) != flat
    assert card["curve"] == curve and card["seconds"] == 1
