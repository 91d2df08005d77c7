"""`generate --prompts`: what a file asks for is drawn, listed so that it can be read back, and written over nothing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench
from bench import cli, hands_on_arguments, prompt_file
from bench.config import DataConfig
from bench.data.catalogue import open_dataset
from bench.errors import UserError
from bench.hands_on_arguments import GenerateArguments, free, place
from tests.bench.conftest import MicroRun

JUDGED = (
    "import sys; from bench.cli import main; code = main(sys.argv[1:]);sys.exit(99 if 'torch' in sys.modules else code)"
)


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def piped(data: bytes) -> io.TextIOWrapper:
    """Standard input as a container has it: bytes that are no text don't fail there."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")


def test_a_line_is_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\ufeffa red circle\r\n\n  two\u2028lines \n \t\n@a blue square"
    found = ["a red circle", "two\u2028lines", "@a blue square"]
    assert prompt_file.read(written(tmp_path / "many.TXT", text)) == found
    monkeypatch.setattr(sys, "stdin", piped(text.encode()))
    assert prompt_file.read(Path("-")) == found
    monkeypatch.setattr(sys, "stdin", piped(b"caf\xe9\n"))
    with pytest.raises(UserError, match="--prompts - can't be read"):
        prompt_file.read(Path("-"))


def test_a_line_of_json_has_a_prompt_under_one_of_three_names(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "text": "no"}, {"text": "b", "caption": "no"}, {"caption": " c ", "id": 3}]
    file = written(tmp_path / "many.jsonl", "\n\n".join(map(json.dumps, rows)))
    assert prompt_file.read(file) == ["a", "b", " c "]


REFUSED = [
    ("a.txt", " \n\n", "a.txt has no prompts: expected one a line"),
    ("a.csv", "a", "a.csv: expected a file named .txt or .jsonl, or - for standard input"),
    ("a.jsonl", '{"text": "a"}\n{"txt": "b"}', "a.jsonl, line 2: expected a JSON object with one of prompt, text, "),
    ("a.jsonl", '\n{"text": 3}', "a.jsonl, line 2: expected"),
    ("a.jsonl", "{broken", "a.jsonl, line 1: expected"),
    ("a.jsonl", '["a"]', "a.jsonl, line 1: expected"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "sentence"), REFUSED)
def test_what_is_no_list_of_prompts_is_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        prompt_file.check(written(tmp_path / name, text))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="a.txt can't be read"):
        prompt_file.check(tmp_path / "a.txt")
    with pytest.raises(UserError, match="b.txt: no such file"):
        prompt_file.check(tmp_path / "b.txt")


@pytest.mark.slow
def test_a_mistake_is_told_before_torch_is_imported(micro_run: MicroRun, tmp_path: Path) -> None:
    to = tmp_path / "drawn"
    to.mkdir()
    (to / "000.png").touch()
    mistakes = {
        ("@many.txt",): "'@many.txt' is no prompt, expected words: a file's prompts are drawn by --prompts many.txt",
        ("a", "-"): "'-' is no prompt, expected words: a file's prompts are drawn by --prompts -",
        (): "'generate' needs \"PROMPT\" or --prompts FILE after the run",
        ("--prompts", "no.txt"): "--prompts no.txt: no such file",
        (
            "a",
            "--to",
            str(to),
        ): f"--to {to} holds 000.png, which an earlier command may have drawn: name another folder",
    }
    for given, sentence in mistakes.items():
        words = ["generate", str(micro_run.folder), *given]
        done = subprocess.run([sys.executable, "-c", JUDGED, *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"] and [path.name for path in to.iterdir()] == [
        "000.png"
    ]


@pytest.mark.parametrize("name", ["grid.png", "012.png", "1000.png", "metadata.jsonl", "metadata.csv"])
def test_pictures_of_before_are_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hands_on_arguments, "_check_run", lambda *_: None)
    own = tmp_path / "drawn"
    own.mkdir()
    (own / "notes.txt").touch()
    (own / "cat.png").touch()
    asked = GenerateArguments(run="r", texts=("a",), to=own)
    asked.check(bench.config.Config())  # what is not ours stands beside it
    (own / name).touch()
    with pytest.raises(UserError, match=f"holds {name}, which an earlier command may have drawn"):
        asked.check(bench.config.Config())
    assert place(GenerateArguments()) == Path("drawn-2")
    (tmp_path / "drawn-3").touch()
    assert place(GenerateArguments()) == Path("drawn-4")  # each is there, once it was given
    assert free(own) == tmp_path / "drawn-5"  # as where another command drew it meanwhile
    (own / name).unlink()
    assert place(asked) == free(own) == own


@pytest.mark.slow
def test_what_is_drawn_from_a_file_is_read_back_as_a_dataset(
    micro_run: MicroRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = [f"a red circle, number {number}" for number in range(11)]
    file = written(tmp_path / "many.jsonl", "".join(json.dumps({"caption": text}) + "\n" for text in prompts))
    words = ["generate", str(micro_run.folder), "a first one", "--prompts", str(file), "--count", "2", "--seed", "5"]
    assert cli.main(words) == 0
    assert "24 pictures in drawn, all of them on drawn/grid.png" in capsys.readouterr().out
    asked = [text for text in ["a first one", *prompts] for _ in range(2)]
    assert prompt_file.read(Path("drawn/metadata.jsonl")) == asked  # its "prompt" is a number
    own = bench.load(micro_run.folder).config.diffusion
    rows = [json.loads(line) for line in (tmp_path / "drawn" / "metadata.jsonl").read_text().splitlines()]
    assert rows == [
        {
            "file_name": f"{number:03}.png",
            "text": text,
            "prompt": number // 2,
            "run": micro_run.folder.name,
            "seed": 5,
            "nfe": own.nfe,
            "guidance": own.guidance,
        }
        for number, text in enumerate(asked)
    ]
    data = DataConfig(name="folder", path="drawn", size=32)
    found = [sample for split in ("train", "validation", "test") for sample in every(data, split)]
    assert {sample.key: sample.caption for sample in found} == {row["file_name"]: row["text"] for row in rows}
    again = bench.load(micro_run.folder).generate(asked, seed=5)
    for sample in found:
        assert np.array_equal(sample.image, np.asarray(again[int(sample.key.removesuffix(".png"))]))
    monkeypatch.setattr(sys, "stdin", piped(b"\n"))
    assert cli.main([*words[:2], "--prompts", "-"]) == 2
    assert "standard input has no prompts" in capsys.readouterr().err
    # The same words again write over none of it.
    assert cli.main([*words[:3], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metadata"] == str(Path("drawn-2", "metadata.jsonl"))
    with Image.open(tmp_path / "drawn-2" / "000.png") as image:
        assert image.size == (32, 32)
    assert cli.main([*words[:3], "--to", "drawn"]) == 2
    assert len(list((tmp_path / "drawn").iterdir())) == 26


def every(config: DataConfig, split: str) -> list:
    try:
        return open_dataset(config, split).first(99)
    except UserError as error:
        assert "none falls into it" in str(error)  # of so few pictures
        return []
