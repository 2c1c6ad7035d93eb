"""``segue quantize`` on the models that ship with Segue."""

import re
from pathlib import Path

import pytest

from segue.launcher.cli import main
from segue.launcher.llm import LLM

STORY = "Once upon a time there was a little girl named Lily. She liked to play in the park with her dog. " * 12


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_the_table_and_the_model(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, output = tmp_path / "story.txt", tmp_path / "output"
    text.write_text(STORY, "utf-8")
    assert main(["quantize", "sample-chat", str(output), "--method", method, "--text", str(text)]) == 0
    table = capsys.readouterr().out
    weights = re.search(r"^weights +4\.73 MB +(\S+) MB +-(\d+)%$", table, re.M)
    assert weights is not None, table
    assert int(weights[2]) > (30 if method == "int8" else 50)
    perplexity = re.search(r"^perplexity +(\S+) +(\S+) +[+-]\d", table, re.M)
    assert perplexity is not None, table
    before, after = float(perplexity[1]), float(perplexity[2])
    assert after / before == pytest.approx(1, abs=0.02 if method == "int8" else 0.2)
    assert f"tokens of {text}, in windows of 512" in table
    llm = LLM(str(output), max_batch_total_tokens=512)
    assert llm.info.quantize == "compressed-tensors"
    (story,) = llm.generate("Once upon a time")
    assert story.text


def test_without_a_text_there_is_no_perplexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "sample-t5", str(tmp_path / "output")]) == 0
    table = capsys.readouterr().out
    assert "weights" in table
    assert "perplexity" not in table


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--group-size", "48"], "`group_size` must be"),
        (["--text", "no such file"], "`text`: no such file cannot be read"),
    ],
)
def test_refusals(more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "sample-chat", str(tmp_path / "output"), *more]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_an_encoder_decoder_has_no_perplexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "story.txt"
    text.write_text(STORY, "utf-8")
    assert main(["quantize", "sample-t5", str(tmp_path / "output"), "--text", str(text)]) == 1
    assert "models without an encoder" in capsys.readouterr().err
