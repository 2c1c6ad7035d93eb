"""A checkpoint with a SentencePiece model only, as mT5's are, gets a tokenizer.json once."""

import json
import os
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from segue.core.errors import ConfigError
from segue.launcher.tokenizer_files import ensure_tokenizer

SENTENCES = [f"the quick brown fox jumps over the lazy dog {i}" for i in range(200)]


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / "spiece"),
        vocab_size=50,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 50}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return folder


def test_a_folder_with_tokenizer_json_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert ensure_tokenizer(tmp_path, trust_remote_code=False, cache=tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_conversion(t5_folder: Path, tmp_path: Path) -> None:
    made = ensure_tokenizer(t5_folder, trust_remote_code=False, cache=tmp_path)
    tokenizer = Tokenizer.from_file(str(made / "tokenizer.json"))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(t5_folder / "spiece.model"))
    assert tokenizer.encode("the lazy fox").ids == [*reference.encode("the lazy fox"), 1]
    assert (made / "chat_template.jinja").read_text() == "{{ messages[0].content }}"
    assert not (t5_folder / "tokenizer.json").exists()

    written = os.stat(made / "tokenizer.json")
    assert ensure_tokenizer(t5_folder, trust_remote_code=False, cache=tmp_path) == made
    assert os.stat(made / "tokenizer.json") == written
    assert os.listdir(tmp_path / "tokenizers") == [made.name]


def test_a_tokenizer_that_cannot_be_converted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    (tmp_path / "spiece.model").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"could not be converted: \w+"):
        ensure_tokenizer(tmp_path, trust_remote_code=False, cache=tmp_path / "cache")
