"""A mistake in somebody's approach is one sentence, said early: by its class, by what it is built of, by its losses, by
the shapes that it answers, by gradients that never came; and another package that is broken breaks nothing else."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from approaches.base import Approach, Batch, Generators, Loss
from approaches.registry import APPROACHES, _points_on, package_of
from approaches.settings import Settings
from approaches.shared.decoding import decode, score
from approaches.shared.diffusion import Diffusion
from bench import hands_on, store
from bench.assembly import build
from bench.console import Console
from bench.errors import UserError
from bench.evaluate_again import again
from bench.evaluate_arguments import EvaluateArguments
from bench.hands_on_arguments import CompleteArguments
from bench.listing import collect
from bench.owed import check_class, check_losses, check_sharding, unreached
from bench.own_settings import check_settings
from bench.trainer import NonFiniteLossError
from bench.training import ApproachTrainee, accelerator_for
from reports import schema
from tests.approaches.small import small_shared
from tests.bench import ways
from tests.bench.conftest import MicroRun
from tests.bench.test_training import Fake, Training, batches_of, changed

QUIET = Console(interval=1e9)


def kind(capabilities: set[str], *methods: str) -> type[Approach]:
    """A class that declares these and has these methods."""
    own = {name: lambda *_: None for name in (*methods, "losses", "blocks")}
    return type("Kind", (Approach,), {"capabilities": frozenset(capabilities), **own})


CLASSES = [
    ({"denoise", "complet"}, ("condition", "denoise"), "declares the capability 'complet': did you mean 'complete'?"),
    ({"denoise"}, ("denoise",), "declares 'denoise', and its class has no condition"),
    ({"caption"}, ("text_start",), "declares 'caption', and its class has no text_step"),
    ({"complete"}, ("text_start", "text_step"), "declares 'complete', and its class has no text_logits"),
    ({"generate"}, (), "declares 'generate': its class has neither condition nor generate"),
    ({"generate"}, ("condition",), "declares 'generate': its class has neither denoise nor generate"),
]


@pytest.mark.parametrize(("capabilities", "methods", "sentence"), CLASSES)
def test_a_class_that_lacks_what_it_declares_is_refused(
    capabilities: set[str], methods: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UserError) as raised:
        check_class("mine", kind(capabilities, *methods))
    assert str(raised.value).startswith(f"approach 'mine' {sentence}")


def test_a_class_without_blocks_or_with_a_word_for_capabilities_is_refused() -> None:
    bare = type("Bare", (Approach,), {"losses": lambda *_: None})
    with pytest.raises(UserError, match="approach 'mine': its class has no blocks, which every approach gives"):
        check_class("mine", bare)
    words = type("Words", (kind(set()),), {"capabilities": "denoise"})
    with pytest.raises(UserError, match="has a str as capabilities, expected a frozenset of denoise, generate"):
        check_class("mine", words)


def test_a_class_that_draws_by_its_own_way_or_can_do_little_is_fine() -> None:
    check_class("mine", kind({"generate"}, "generate"))
    check_class("mine", kind(set()))
    for name in APPROACHES:
        check_class(name, APPROACHES[name].load())


@pytest.mark.parametrize(
    ("losses", "before", "sentence"),
    [
        (torch.zeros(()), (), "Fake.losses gives Tensor, expected an approaches.base.Loss for each term's name"),
        ({"diffusion": torch.zeros(())}, (), "gives Tensor for 'diffusion'"),
        ({"caption": Loss(torch.zeros(()), 1)}, (), "has no term 'diffusion', which an approach"),
        ({"diffusion": Loss(torch.zeros(()), 1)}, ("diffusion", "replay"), "had the terms diffusion, replay, and has"),
    ],
)  # fmt: skip
def test_losses_that_are_none_are_refused(losses: Any, before: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        check_losses(Fake(small_shared(), Settings()), losses, before)
    assert sentence in str(raised.value)


def test_an_answer_that_torch_would_broadcast_is_refused() -> None:
    with pytest.raises(UserError, match=r"denoise answered \(4, 1, 8, 8\), expected \(4, 4, 8, 8\)"):
        Diffusion().loss(torch.zeros(4, 1, 8, 8), torch.zeros(4, 4, 8, 8))


def test_logits_of_another_shape_are_refused() -> None:
    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise AssertionError("never asked")

    wrong = (torch.zeros(3, 1, 9), None)
    for ask in (lambda: decode(wrong, step, limit=2, end_id=0), lambda: score(wrong, step, torch.ones(3, 2).long())):
        with pytest.raises(UserError, match=r"text_start answered logits of shape \(3, 1, 9\), expected one"):
            ask()


def test_a_language_model_that_was_changed_in_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, micro_run: MicroRun
) -> None:
    request, shared = store.Request.read(micro_run.folder), small_shared()
    model: Any = APPROACHES["dual_tower"].load()
    before = build(request, shared).borrowed()

    own = model.__init__

    def wrapping(made: Any, shared: Any, settings: Any) -> None:
        own(made, shared, settings)
        shared.language_model.transformer.blocks[0].extra = nn.Linear(2, 2)

    monkeypatch.setattr(model, "__init__", wrapping)
    with pytest.raises(UserError, match="has changed the layers of the shared language model.*copy.deepcopy"):
        build(request, small_shared())
    assert before["language_model"] == sum(p.numel() for p in small_shared().language_model.parameters())


def test_a_block_whose_parameters_are_another_module_s_too_can_not_be_sharded() -> None:
    approach = Fake(small_shared(), Settings())
    check_sharding(approach)
    approach.second = nn.Linear(256, 32)
    first = approach.draw[0]
    assert isinstance(first, nn.Linear)
    approach.second.weight = first.weight
    with pytest.raises(UserError, match=r"Fake can't be sharded: second.weight is block 0's parameter, too"):
        check_sharding(approach)


# ---------------------------------------------------------------------------------------------------------- training


class Idle(Fake):
    """Two parameters that no loss reaches."""

    def __init__(self, shared: Any, settings: Settings) -> None:
        super().__init__(shared, settings)
        self.idle = nn.Linear(3, 3)

    def parameter_groups(self) -> Any:
        """With the two."""
        first, *rest = super().parameter_groups()
        return [dataclasses.replace(first, parameters=(*first.parameters, *self.idle.parameters())), *rest]


class Rare(Idle):
    """One of the two is reached, in the first step alone."""

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """See Approach."""
        found = super().losses(batch, generators)
        if batch.step:
            return found
        reached = self.idle.weight.sum() - self.idle.weight.sum().detach()
        return {**found, "diffusion": dataclasses.replace(found["diffusion"], sum=found["diffusion"].sum + reached)}


class Lost(Fake):
    """Its reading is no number from step 2 on."""

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """One of the terms."""
        found = super().losses(batch, generators)
        if batch.step >= 2:
            found["caption"] = dataclasses.replace(found["caption"], sum=found["caption"].sum * torch.nan)
        return found


class Miscounting(Fake):
    """Counts drawn pictures, not their levels of noise."""

    def counts(self, batch: Batch) -> dict[str, Any]:
        """See Approach."""
        return {"diffusion": len(batch.draw), "caption": batch.describe.predicted}


class Forgetting(Fake):
    """Counts one term of two."""

    def counts(self, batch: Batch) -> dict[str, Any]:
        """See Approach."""
        return {"diffusion": len(batch.times)}


class Counting(Fake):
    """Right."""

    def counts(self, batch: Batch) -> dict[str, Any]:
        """See Approach."""
        return {"diffusion": len(batch.times), "caption": batch.describe.predicted}


def trained(kind: type[Fake], path: Path, **fields: Any) -> Any:
    training = Training(changed(amount=4, validations=1, **fields))
    training.approach = kind(small_shared(), training.settings)
    return training.run(path)


def test_parameters_that_never_had_a_gradient_are_named(tmp_path: Path) -> None:
    assert trained(Fake, tmp_path / "a").unreached == ()
    found = trained(Idle, tmp_path / "b").unreached
    assert set(found) == {"idle.weight", "idle.bias"}
    assert trained(Rare, tmp_path / "c").unreached == ("idle.bias",)
    assert unreached(found) == (
        "2 trained parameters never had a gradient, and are as they began: idle.bias, idle.weight"
    )
    assert unreached(()) == "" and unreached("abcd").endswith("a, b, c, ...")


def test_a_resumed_training_knows_what_was_reached_before(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    trained(Idle, path)
    again = trained(Idle, path)  # done already: no step is taken
    assert set(again.unreached) == {"idle.weight", "idle.bias"}


def test_the_term_that_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"the loss \(caption\) or its gradient is nan at step 2"):
        trained(Lost, tmp_path / "c")


def test_counts_that_are_not_the_losses_are_refused(tmp_path: Path) -> None:
    levels = {"noise_levels": 2}
    for wrong in (Miscounting, Forgetting):
        with pytest.raises(UserError, match=rf"{wrong.__name__}.counts gives .*, and its losses count "):
            trained(wrong, tmp_path / wrong.__name__, **levels)
    assert trained(Counting, tmp_path / "a", **levels).curve == trained(Fake, tmp_path / "b", **levels).curve


def test_counts_are_checked_in_the_first_step_of_every_process() -> None:
    config = changed(noise_levels=2)
    approach = Miscounting(small_shared(), Settings())
    trainee = ApproachTrainee(approach, batches_of(config), config, accelerator_for(config, Path()))
    with pytest.raises(UserError, match=r"Miscounting.counts gives "):
        trainee.gradients(3)


# --------------------------------------------------------------------------------------------------- another's package


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with approaches, as pip leaves it, whose model module is not there yet."""
    ways.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "strangers"


def test_a_broken_package_is_a_line_of_the_list_and_takes_nothing_down(strangers: Path) -> None:
    items = {item.name: item for item in dict(collect())["approaches"]}
    assert items["dual_tower"].obstacle == ""
    assert "can't be loaded from strangers.way:Way: there is no such module" in items["good"].obstacle
    (strangers / "way.py").write_text("class Way: pass\n")
    assert {item.name: item for item in dict(collect())["approaches"]}["good"].obstacle == ""  # torch would be needed
    entry = strangers / "entry.py"
    entry.write_text(entry.read_text().replace("class Own(Settings)", "class Other(Settings)"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "strangers"]:
        del sys.modules[name]
    items = {item.name: item for item in dict(collect())["approaches"]}
    assert "has no attribute 'Own'" in items["good"].obstacle and items["modular"].obstacle == ""


def test_a_class_or_settings_that_are_none_get_a_sentence(strangers: Path) -> None:
    (strangers / "way.py").write_text("class Way: pass\n")
    with pytest.raises(UserError, match="strangers.way:Way is no subclass of approaches.base.Approach"):
        APPROACHES["good"].load()
    wrong = dataclasses.replace(APPROACHES["good"], settings="strangers.way:Way")
    with pytest.raises(UserError, match="strangers.way:Way is no subclass of approaches.settings.Settings"):
        wrong.load_settings()
    gone = dataclasses.replace(APPROACHES["good"], target="strangers.way:Gone")
    with pytest.raises(UserError, match="approach 'good' can't be loaded from strangers.way:Gone: AttributeError"):
        gone.load()
    assert package_of("good") == {"strangers": "1.0"} and package_of("dual_tower") == {}


def renamed(strangers: Path, name: str) -> Any:
    """The entry of `good`, under another name in its entry point, judged as `list` judges it."""
    points = strangers.parent / "strangers-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("good = ", f"{name} = "))
    _points_on.cache_clear()
    return {item.name: item for item in dict(collect())["approaches"]}[name].obstacle


@pytest.mark.parametrize("name", ["a/b", "all", "two words", "-x"])
def test_a_name_that_no_folder_or_option_can_have_is_refused(strangers: Path, name: str) -> None:
    assert "has a name that can't be one: expected letters, digits, _ and -, and not 'all'" in renamed(strangers, name)


def test_two_names_of_one_approach_are_refused(strangers: Path) -> None:
    assert "is called 'good' in strangers.entry:GOOD: both names are to be the same" in renamed(strangers, "better")


def test_a_module_that_leaves_takes_nothing_down(strangers: Path) -> None:
    (strangers / "entry.py").write_text("import sys\nsys.exit(7)\n")
    items = {item.name: item for item in dict(collect())["approaches"]}
    assert "can't be loaded from strangers.entry:GOOD: SystemExit: 7" in items["good"].obstacle
    assert items["modular"].obstacle == ""


def settings(body: str, dressed: str = "@dataclass(frozen=True, kw_only=True)") -> Any:
    """A settings class with this body, in a module of its own."""
    module = ModuleType("strange_settings")
    sys.modules[module.__name__] = module
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = f"from __future__ import annotations\n{IMPORTS}\n{dressed}\nclass Own(Settings):\n{lines}\n"
    exec(code, vars(module))
    return vars(module)["Own"]


IMPORTS = (
    "from dataclasses import dataclass\nfrom typing import Any, Callable, ClassVar, Literal\n"
    "from approaches.settings import Settings\nfrom bench.ranges import Rate"
)
SETTINGS = [
    ("rank: int = 4", "", "lack @dataclass(frozen=True, kw_only=True): rank would be no options"),
    ("rank: int", None, "can't have their defaults: .*missing 1 required keyword-only argument: 'rank'"),
    ("rank: Rnak = 4", None, "have an annotation that does not resolve: name 'Rnak' is not defined"),
    ("width: int = '96'", None, "can't have their defaults: width is '96', expected int"),
    ("way: Literal['a', 'b'] = 'c'", None, "can't have their defaults: way is 'c'"),
    ("work: Any = print", None, "can't have their defaults: .*not JSON serializable"),
    ("learning_rate: Rate = 50.0", None, "can't have their defaults: learning_rate is 50.0, expected a value above 0"),
    ("rank: int = 4\nOF_PRESETS = {'smoke': {'rnak': 4}}", None, "can't have their OF_PRESETS['smoke']: .*'rnak'"),
    ("OF_OTHER_LMS = {'caption_weight': -1.0}", None, "can't have their OF_OTHER_LMS: caption_weight is -1.0"),
    ("def __post_init__(self): raise ValueError('odd')", None, "can't have their defaults: odd"),
]


@pytest.mark.parametrize(("body", "dressed", "sentence"), SETTINGS)
def test_settings_that_no_option_or_record_can_hold_are_refused(body: str, dressed: str | None, sentence: str) -> None:
    own = settings(body) if dressed is None else settings(body, dressed)
    with pytest.raises(UserError) as raised:
        check_settings("mine", own)
    told = str(raised.value)
    assert told.startswith("approach 'mine': its settings, ") and "\n" not in told
    assert re.search(re.escape(sentence).replace(r"\.\*", ".*"), told), told


def test_settings_of_ours_and_of_a_subclass_that_adds_nothing_are_fine() -> None:
    for name in APPROACHES:
        check_settings(name, APPROACHES[name].load_settings())
    check_settings("mine", settings("pass", ""))
    check_settings("mine", settings("rank: int = 4\nOF_PRESETS: ClassVar = {'smoke': {'rank': 2}}"))


def test_one_name_of_two_packages_is_nobodys(strangers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (strangers / "way.py").write_text("class Way: pass\n")
    ways.install(strangers.parent / "second", name="others")
    monkeypatch.syspath_prepend(str(strangers.parent / "second"))
    with pytest.raises(UserError, match="approach 'good' is brought by several packages: others, strangers"):
        APPROACHES["good"].load()
    items = {item.name: item for item in dict(collect())["approaches"]}
    assert "several packages" in items["good"].obstacle and items["dual_tower"].obstacle == ""


@pytest.mark.slow
def test_other_sources_than_trained_with_are_told_wherever_the_run_is_used(
    micro_run: MicroRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / micro_run.folder.name
    shutil.copytree(micro_run.folder, folder)
    request = store.Request.read(folder)
    assert store.other_sources(request) == []
    monkeypatch.setattr(store, "foreign_sources", lambda _: "another")
    assert store.other_sources(request) == ["foreign sources"]
    arguments = CompleteArguments(run=str(folder), texts=("document 3",), tokens=2)
    hands_on.complete(arguments, micro_run.config, Console())
    assert "the package of approach 'dual_tower' has changed since" in capsys.readouterr().err
    again(folder, EvaluateArguments(pictures=3, captions=2, documents=2, extractor_input=64), QUIET)
    after = schema.load(folder)
    assert any("by other sources than it was trained with" in note for note in after.notes)
    assert after.provenance["evaluated"]["foreign sources"] == "another"
