"""Whatever a person mistypes ends in one sentence on stderr, nothing on stdout, and exit code 2."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from bench import cli, hands_on_arguments
from bench.clean_arguments import CleanArguments
from bench.data import fonts
from bench.errors import UserError
from bench.files import at_home, cache_directory
from bench.parsing import _refuse_with, flags_of, parse, type_name
from tests.bench import startup

MISTAKES = [
    ("lisst", "unknown verb 'lisst': did you mean 'list'?"),
    ("zzz", "unknown verb 'zzz': expected one of: "),
    ("--jsn list", "'--jsn' comes before a verb"),
    ("list --jsn", "'list' has no option --jsn: did you mean --json?"),
    ("list stray", "nothing to list under 'stray': expected one of: approaches, datasets, "),
    ("doctor stray", "'doctor' can't place 'stray'"),
    ("doctor --json=3", "--json takes no value, got '3'"),
    ("list --data.size 64", "'list' has no option --data.size"),
    ("doctor --onlin", "'doctor' has no option --onlin: did you mean --online?"),
    ("pretrain --data.sise 64", "'pretrain' has no option --data.sise: did you mean --data.size?"),
    ("pretrain --data_sise=64", "'pretrain' has no option --data_sise: did you mean --data.size?"),
    ("pretrain --data 64", "--data is a group of options, expected one of its fields, such as --data."),
    ("pretrain --size 64", "did you mean --data.size?"),
    ("pretrain --steps 64", "did you mean --pretrain.vae.optimizer.steps, "),
    ("pretrain --qqqqqq 64", "'pretrain' has no option --qqqqqq: see 'python -m bench pretrain --help'"),
    ("pretrain -x", "'pretrain' has no option -x"),
    ("pretrain --pretrain.vae.optimizer.steps abc", "--pretrain.vae.optimizer.steps is 'abc', expected int"),
    ("pretrain --pretrain.vae.optimizer.steps=1e3", "--pretrain.vae.optimizer.steps is '1e3', expected int"),
    ("pretrain --pretrain.lm.optimizer.lr fast", "--pretrain.lm.optimizer.lr is 'fast', expected float"),
    ("pretrain --pretrain.vae.channels 8 x", "--pretrain.vae.channels is '8 x', expected a list of int"),
    ("pretrain --data.size", "--data.size has no value, expected int"),
    ("run --approach dual_tower --approach modular", "--approach is given 2 times, expected all its values behind one"),
    ("compare A B --metrics x --metrics=y", "--metrics is given 2 times, expected all its values behind one"),
    ("run --train.tracker tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
    ("sweep --train.tracker tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
    ("array --train.tracker tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
    ("reproduce lmd --train.tracker tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
    ("pretrain --data.size --seed 3", "--data.size has no value, expected int"),
    ("pretrain --data.size=", "--data.size has no value, expected int"),
    ("pretrain --data.size 30", "data.size is 30, expected a multiple of 4 from 8 to 1024"),
    ("pretrain --data.size 4096", "data.size is 4096, expected a multiple of 4 from 8 to 1024"),
    ("pretrain --data.size -32", "data.size is -32, expected a multiple of 4 from 8 to 1024"),
    ("pretrain --pretrain.lm.optimizer.lr nan", "pretrain.lm.optimizer.lr is nan, expected a value above 0"),
    ("pretrain --pretrain.lm.optimizer.lr -inf", "pretrain.lm.optimizer.lr is -inf"),
    ("pretrain --pretrain.lm.optimizer.lr 0", "pretrain.lm.optimizer.lr is 0.0, expected a value above 0"),
    ("pretrain --diffusion.sampler heum", "--diffusion.sampler is 'heum': did you mean 'heun'?"),
    (
        "pretrain --diffusion.sampler ddim",
        "diffusion.sampler is 'ddim', which can't follow diffusion.prediction 'flow'",
    ),
    (
        "run --diffusion.prediction epsilon --diffusion.sampler ddim",
        "diffusion.shift is 2, and only the prediction 'flow' has a time shift: expected 1",
    ),
    ("run --train.accumulation 9", "train.accumulation is 9, and a batch has 16 pictures to draw and 8 to describe"),
    ("pretrain --pretrain.lm.kv-heads 4", "pretrain.lm.kv_heads is 4, expected a divisor"),
    ("pretrain --only vea", "--only is 'vea': did you mean 'vae'?"),
    ("pretrain --only", "--only names nothing to make"),
    ("sweep --values", "--values has no value, expected a list of str"),
    ("clean --what", "--what has no value, expected a list of str"),
    ("run --out=", "--out has no value, expected a path"),
    ("report --to=", "--to has no value, expected a path or None"),
    ("compare a b --metrics", "--metrics has no value, expected a list of str"),
    ("run --data.path ./typo", "--data.path ./typo: no such file or folder"),
    ("run --model.lm README.md", "model.lm is 'README.md', a file: expected a folder as transformers saves"),
    ("run --model.lm docs", "model.lm is 'docs', which holds no config.json: expected a folder as transformers saves"),
    ("run --clip ViT-L-15/openai", "is of no architecture that open_clip has: did you mean 'ViT-L-16/openai'?"),
    ("run --clip ViT-B-32/opena", "and open_clip has no such weights of ViT-B-32: did you mean 'openai'?"),
    ("run --clip ViT-B-32", "model.clip is 'ViT-B-32', which names no weights: expected 'ViT-B-32/openai' or such"),
    ("run --clip shipped:vae-tiny", "model.clip is 'shipped:vae-tiny', which has no open_clip_config.json"),
    ("run --clip shipped:clip-tinny", "which is not shipped: did you mean 'shipped:clip-tiny'?"),
    ("run --lm nowhere", "and no shipped model: expected one of: shipped:lm-tiny"),
    ("run --data.path README.md", "--data.path README.md is a file, expected a folder of pictures, or tar shards"),
    ("run --model.lm shipped:vae-tiny", "config.json has no model_type (it says AutoencoderKL)"),
    ("run --model.vae shipped:lm-tiny", "config.json has no _class_name (it says llama): expected a folder as"),
    ("report , --out runs", "',' names no run, expected a run"),
    ("pretrain --preset smok", "unknown preset 'smok': did you mean 'smoke'?"),
    ("pretrain --preset=smok", "unknown preset 'smok': did you mean 'smoke'?"),
    ("pretrain --preset", "--preset has no value, expected str"),
    ("pretrain --preset smoke --config x.json", "--preset and --config both name a config"),
    ("pretrain --config no/such.json", "no such file: no/such.json"),
    ("pretrain --config .", ". is not readable as JSON"),
    ("pretrain --data.name shaps", "unknown dataset 'shaps': did you mean 'shapes'?"),
    ("pretrain --text.name pydoc", "unknown text corpus 'pydoc': did you mean 'pydocs'?"),
    ("pretrain --model.vae ./no/such/folder", "model.vae is './no/such/folder', which is no existing path"),
    ("pretrain --model.lm package:smolm2", "model.lm is 'package:smolm2': did you mean 'smollm2'?"),
    ("pretrain --model.lm shipped:lm-tny", "model.lm is 'shipped:lm-tny', which is not shipped"),
    ("preview --datasets shaps", "unknown dataset 'shaps': did you mean 'shapes'?"),
    ("preview --datasets", "--datasets names none"),
    ("preview --count 0", "count is 0, expected a value from 1 to 1024"),
    ("preview --datasets folder --data.path no/such", "no/such"),
    ("preview --datasets shapes --data.path docs", "--data.path docs: dataset 'shapes' is generated and reads no path"),
]


PATHS = [
    ("--data.path ./typo", "--data.path ./typo: no such file or folder; a hub id goes with --data.name hub"),
    ("--data.path docs --data.name shapes", "--data.path docs: dataset 'shapes' is generated and reads no path"),
    ("--data.path ./typo --data.name folder", "--data.path ./typo: no such folder"),
    ("--data.path ./typo --preset base", "--data.path ./typo: 1 of 1 shards are missing: typo"),
    ("--text.path ./typo", "--text.path ./typo: no such file or folder, and pydocs reads none; a hub id goes with"),
    ("--text.path docs --text.name world", "--text.path docs: world reads none; --text.name file or folder reads it"),
    ("--text.path ./typo --text.name file", "text.path typo doesn't exist"),
    ("--text.path ./typo --text.name hub", "text.path typo doesn't exist"),
]


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The sentence that a command line is refused with."""
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("error: ")
    return captured.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_one_sentence(capsys: pytest.CaptureFixture[str], line: str, sentence: str):
    assert sentence in refused(capsys, line.split())


@pytest.mark.parametrize(("words", "sentence"), PATHS, ids=[words for words, _ in PATHS])
def test_a_path_is_judged_alike_by_all_that_would_read_it(
    capsys: pytest.CaptureFixture[str], words: str, sentence: str
):
    """`plan` and `preview` are asked first, and must not show another dataset, or count on one that is not there."""
    told = {verb: refused(capsys, [verb, *words.split()]) for verb in ("run", "plan", "preview")}
    assert len(set(told.values())) == 1 and sentence in told["run"], told


@pytest.mark.parametrize("line", [["report", ""], ["compare", ",", "a"], ["compare", "", "a"]])
def test_a_word_that_names_nothing(capsys: pytest.CaptureFixture[str], line: list[str]):
    assert cli.main(line) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1


def test_a_word_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match=r"\"PROMPT\" 'a \\udcff' is not UTF-8"):
        hands_on_arguments._check_text(("a cat", "a \udcff"), '"PROMPT"')


def test_a_path_under_home_is_found_where_no_shell_expands_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert cli.main(["clean", "--out=~/mine"]) == 0
    parsed = parse(CleanArguments, ["--out=~/mine"], verb="clean", program="bench", configured=False)
    assert parsed.arguments.out == tmp_path / "mine"
    monkeypatch.setenv("BENCH_CACHE", "~/cache")
    assert cache_directory() == tmp_path / "cache"
    for name in ("BENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv("BENCH_CACHE", "")
        monkeypatch.setenv(name, "~no-such-user/cache")
        with pytest.raises(UserError, match="~no-such-user/cache.*: there is no such home folder"):
            cache_directory()
    assert at_home("~\0x") == Path("~\0x")


def test_a_folder_that_may_not_be_read_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def closed(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/some/folder")

    monkeypatch.setattr(cli, "_dispatch", closed)
    assert cli.main(["list"]) == 2
    assert capsys.readouterr().err == "error: /some/folder: Permission denied\n"


def test_a_file_in_the_way_of_the_output_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "taken").touch()
    for verb in ("pretrain", "preview", "run", "clean"):
        assert "taken is a file, expected a folder" in refused(capsys, [verb, "--out", str(tmp_path / "taken")])
        inside = str(tmp_path / "taken" / "in" / "it")
        assert "it: " + str(tmp_path / "taken is a file") in refused(capsys, [verb, "--out", inside])


def test_a_missing_font_says_what_to_install_or_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fonts, "find_font", lambda: None)
    assert "fonts-noto-color-emoji" in refused(capsys, ["pretrain", "--only", "vae"])
    assert "--data.path" in refused(capsys, ["preview", "--datasets", "emoji"])


def test_a_missing_package_says_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install" in refused(capsys, ["preview", "--datasets", "hub", "--data.path", "some/set"])


def test_a_text_path_that_nothing_reads_is_refused_and_no_other_text_taken(capsys: pytest.CaptureFixture[str]):
    for path in ("./nope", "wikitext/wikitext-2-raw-v1"):
        said = refused(capsys, ["run", "--text.path", path])
        assert path in said and "no such file or folder" in said and "--text.name hub" in said
    for verb in ("run", "pretrain"):
        for path in ("./nope", __file__):
            said = refused(capsys, [verb, "--text.name", "pydocs", "--text.path", path])
            assert "pydocs reads none" in said and ("no such file" in said) == (path == "./nope")


def test_a_clip_folder_that_cant_be_loaded_is_told_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    (tmp_path / "config.json").write_text("{}")
    assert "has no open_clip_config.json" in refused(capsys, ["run", "--clip", str(tmp_path)])


def test_a_local_model_is_judged_by_its_config_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    config = tmp_path / "config.json"
    for option, told, sentence in (
        ("--lm", '{"model_type": "gpt2"}', "a gpt2 model: expected one of llama, qwen2, qwen3, mistral, smollm3"),
        ("--lm", '{"model_type": "llama"}', "which holds no tokenizer: expected tokenizer.json or"),
        ("--vae", '{"_class_name": "AutoencoderKL", "in_channels": 1}', "of 1 colour channels: expected 3"),
    ):
        config.write_text(told)
        assert sentence in refused(capsys, ["run", option, str(tmp_path)])


def test_another_tyro_still_gives_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    from tyro import _errors

    monkeypatch.delattr(_errors, "on_parse_error")
    for line, word in (
        ("pretrain --data.size abc", "abc"),
        ("pretrain --qqq 3", "--qqq"),
        ("pretrain --diffusion.sampler heum", "heum"),
        ("pretrain --data.size", "--data.size"),
    ):
        sentence = refused(capsys, line.split())
        assert word in sentence
        assert not set(sentence) & set("│─╭╮╰╯\x1b")


@pytest.mark.parametrize(
    "box",
    [
        "╭─ Value error ─╮\n│ Error parsing │\n│ --x: bad one  │\n│ ───────────── │\n│ more text     │\n",
        " Value error     \n --------------- \n  Error parsing  \n  --x: bad one   \n  -------------  \n  more text\n",
    ],
    ids=["UTF-8", "ASCII"],
)
def test_a_box_becomes_a_sentence(box: str):
    with pytest.raises(UserError, match=r"^value error: Error parsing --x: bad one \(see 'bench --help'\)$"):
        _refuse_with(box, "bench --help")


def test_flags_are_those_that_tyro_makes(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["pretrain", "--help"]) == 0
    out = capsys.readouterr().out
    from bench.config import Config

    words = set(out.replace(",", " ").split())
    assert {flag for flag, _ in flags_of(Config)} <= words


def test_types_in_words():
    assert type_name(Path) == "a path"
    assert type_name(tuple[int, ...]) == "a list of int"
    assert type_name(str | None) == "str or None"


@pytest.mark.parametrize("verb", ["run", "sweep", "array"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--train.tracker tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
        ("--kernels.attention flex", "the attention kernel 'flex' can't run on cpu: "),
        ("--preset small --lm shipped:lm-tiny --kernels.norm liger", "the norm kernel 'liger' can't run on cpu: "),
    ],
)
def test_what_this_machine_lacks_is_refused_before_a_run_has_a_folder(
    verb: str,
    words: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # whether or not there is a GPU
    assert cli.main([verb, *words.split(), "--out", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr()
    assert (told.out, said in told.err, told.err.count("\n")) == ("", True, 1), told.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.alone
@pytest.mark.parametrize("line", ["pretrain --preset smok", "pretrain --data.size abc", "lst"])
def test_a_mistake_is_judged_within_a_second_and_before_torch(line: str):
    done = startup.check(line, 1.0)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
