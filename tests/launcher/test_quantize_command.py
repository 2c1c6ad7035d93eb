"""``segue quantize`` on the models that ship with Segue."""

import re
from itertools import islice
from pathlib import Path

import pytest

from segue.launcher.cli import main
from segue.launcher.llm import LLM
from training import corpus

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


def _sample_text() -> str:
    """Of the kinds that the sample was trained on."""
    documents = islice(corpus.chat_documents(91), 60)
    return "\n".join("".join(piece.text for piece in document) for document in documents)


@pytest.mark.parametrize("more", [[], ["--act-order"]])
def test_gptq_is_no_worse_than_rounding(more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the half of the text that it was not calibrated with, activations in float for both."""
    whole, second = tmp_path / "whole.txt", tmp_path / "second.txt"
    text = _sample_text()
    whole.write_text(text, "utf-8")
    second.write_text(text[len(text) // 2 :], "utf-8")
    rises = {}
    for method, file, options in (("int4", second, ["--round-activations", "false"]), ("gptq", whole, more)):
        output = tmp_path / method
        arguments = ["quantize", "sample-chat", str(output), "--method", method, "--text", str(file), *options]
        assert main([*arguments, "--text-tokens", "4096"]) == 0
        table = capsys.readouterr().out
        perplexity = re.search(r"^perplexity +(\S+) +(\S+) ", table, re.M)
        assert perplexity is not None, table
        rises[method] = float(perplexity[2]) / float(perplexity[1])
    assert rises["gptq"] <= rises["int4"]
    assert LLM(str(tmp_path / "gptq"), max_batch_total_tokens=512, quantize="gptq").info.quantize == "gptq"


def test_without_a_text_there_is_no_perplexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "sample-t5", str(tmp_path / "output")]) == 0
    table = capsys.readouterr().out
    assert "weights" in table
    assert "perplexity" not in table


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--group-size", "48"], "`group_size` must be"),
        (["--act-order"], "are for `--method gptq`"),
        (["--percdamp", "0.1"], "are for `--method gptq`"),
        (["--method", "gptq", "--round-activations", "true"], "`round_activations` is for int8 and int4"),
        (["--method", "gptq", "--percdamp", "2"], "`percdamp` must be from 0 to 1"),
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
