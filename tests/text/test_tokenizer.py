"""Against transformers' AutoTokenizer on the same folder."""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from segue.core.errors import ConfigError, ValidationError
from segue.text.tokenizer import Tokenizer, TokenSpan

Folder = Callable[[str], Path]
Load = Callable[[str], Tokenizer]


@pytest.fixture(scope="session")
def reference(tokenizer_folder: Folder) -> Callable[[str], Any]:
    loaded: dict[str, Any] = {}

    def load(kind: str) -> Any:
        if kind not in loaded:
            loaded[kind] = transformers.AutoTokenizer.from_pretrained(tokenizer_folder(kind))
        return loaded[kind]

    return load


@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_ids_and_texts_equal_transformers(
    kind: str, text: str, add_special_tokens: bool, tokenizer: Load, reference: Callable[[str], Any]
) -> None:
    expected = reference(kind)
    ids = tokenizer(kind).encode(text, add_special_tokens=add_special_tokens)
    assert ids == expected.encode(text, add_special_tokens=add_special_tokens)
    for skip in (True, False):
        assert tokenizer(kind).decode(ids, skip_special_tokens=skip) == expected.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )


def test_special_tokens_equal_transformers(kind: str, tokenizer: Load, reference: Callable[[str], Any]) -> None:
    ours, expected = tokenizer(kind), reference(kind)
    assert (ours.bos_token, ours.bos_token_id) == (expected.bos_token, expected.bos_token_id)
    assert (ours.eos_token, ours.eos_token_id) == (expected.eos_token, expected.eos_token_id)
    assert ours.vocab_size == len(expected)
    added_special = {index for index, token in expected.added_tokens_decoder.items() if token.special}
    assert ours.special_token_ids == added_special | set(expected.all_special_ids)


def test_others_run_while_a_text_is_encoded(tokenizer: Load) -> None:
    """A prompt of 1.5 MB once held the interpreter's lock, and with it the whole server, for four seconds."""
    opt, text = tokenizer("opt"), "The quick brown fox, and so on. " * 2000
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e6)  # nobody loses the lock who does not let go of it
    try:
        for _ in range(8):  # a text that takes longer, should this thread have come to the processor too late
            thread = threading.Thread(target=opt.encode, args=(text,))
            thread.start()
            ran_beside = thread.is_alive()
            thread.join()
            if ran_beside:
                return
            text += text
    finally:
        sys.setswitchinterval(interval)
    pytest.fail("encoding keeps the interpreter's lock")


def test_opt_prompts_start_with_bos(tokenizer: Load) -> None:
    opt = tokenizer("opt")
    assert opt.bos_token == "</s>"
    assert opt.encode("hello")[0] == opt.bos_token_id
    assert opt.bos_token_id not in opt.encode("hello", add_special_tokens=False)


@pytest.mark.parametrize(
    "files",
    [
        {
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False},
                "added_tokens_decoder": {
                    "1": {"content": "<s>", "lstrip": True, "rstrip": True, "normalized": False, "special": True},
                    "420": {"content": "<first>", "special": True},
                    "421": {"content": "<second>", "special": False},
                },
                "additional_special_tokens": ["<third>", "<first>"],
            }
        },
        {
            "special_tokens_map.json": {
                "eos_token": {"content": "</s>", "lstrip": False, "normalized": True},
                "pad_token": "<pad>",
                "additional_special_tokens": ["<first>"],
            },
            "added_tokens.json": {"<second>": 420},
            "config.json": {"model_type": "llama"},
        },
        {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "split_special_tokens": True}},
        {
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": None,
                "bos_token": "the",
            }
        },
    ],
)
def test_tokens_named_only_by_the_config_files(files: dict[str, Any], tokenizer_folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder("llama_2_style") / "tokenizer.json").read_bytes())
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    ours, expected = Tokenizer.from_folder(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "x  <s>  the <first> <second><third> </s> <pad>!"
    ids = ours.encode(text)
    assert ids == expected.encode(text)
    assert ours.decode(ids, skip_special_tokens=True) == expected.decode(ids, skip_special_tokens=True)
    assert (ours.bos_token, ours.eos_token) == (expected.bos_token, expected.eos_token)
    assert ours.vocab_size == len(expected)


def _byte_level_folder(folder: Path, specials: list[str]) -> Path:
    """A vocabulary of single bytes and ``specials``, none of them marked as special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*alphabet, *specials])}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("model_type", ["bart", "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama", "opt", "phi", "qwen2"])
def test_the_class_names_the_tokens_that_the_files_do_not(model_type: str, tmp_path: Path) -> None:
    folder = _byte_level_folder(tmp_path, ["<s>", "</s>", "<|endoftext|>", "<unk>", "<pad>", "<mask>", "<|padding|>"])
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    ours, expected = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (ours.bos_token, ours.eos_token) == (expected.bos_token, expected.eos_token)
    assert (ours.bos_token_id, ours.eos_token_id) == (expected.bos_token_id, expected.eos_token_id)
    ids = ours.encode("a</s>b<|endoftext|>")
    assert ids == expected.encode("a</s>b<|endoftext|>", add_special_tokens=False)
    assert ours.decode(ids, skip_special_tokens=True) == expected.decode(ids, skip_special_tokens=True)


def test_a_class_default_that_the_vocabulary_lacks_is_no_token(tmp_path: Path) -> None:
    # transformers adds an id that the model has no embedding for.
    folder = _byte_level_folder(tmp_path, [])
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    ours = Tokenizer.from_folder(folder)
    assert (ours.bos_token, ours.eos_token_id, ours.vocab_size) == (None, None, 256)


def test_truncation_and_padding_of_the_file_are_ignored(tokenizer_folder: Folder, tmp_path: Path) -> None:
    backend = Backend.from_file(str(tokenizer_folder("gpt2") / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    plain = Tokenizer.from_folder(tokenizer_folder("gpt2"))
    for text in ("a", "one two three four five"):
        assert Tokenizer.from_folder(tmp_path).encode(text) == plain.encode(text)


def test_offsets_are_bytes_of_the_input(kind: str, text: str, tokenizer: Load) -> None:
    raw = text.encode()
    spans = tokenizer(kind).encode_with_offsets(text)
    assert [span.id for span in spans] == tokenizer(kind).encode(text)
    for span in spans:
        assert raw[span.start : span.stop].decode() == span.text


def test_offsets_of_specials_and_of_parts_of_a_character(tokenizer: Load) -> None:
    opt = tokenizer("opt")
    spans = opt.encode_with_offsets("é🦊a")
    assert spans[0] == TokenSpan(opt.bos_token_id or 0, "", 0, 0)
    assert {(span.text, span.start, span.stop) for span in spans[1:]} == {("é", 0, 2), ("🦊", 2, 6), ("a", 6, 7)}
    assert len([span for span in spans if span.text == "🦊"]) > 1


def test_no_offsets_of_nothing(tokenizer: Load) -> None:
    assert tokenizer("gpt2").encode_with_offsets("", add_special_tokens=False) == []


def test_ids_outside_the_vocabulary_decode_to_nothing(tokenizer: Load) -> None:
    gpt2 = tokenizer("gpt2")
    ids = gpt2.encode("hello")
    assert gpt2.decode([*ids, 10**6], skip_special_tokens=False) == "hello"
    assert gpt2.decode([], skip_special_tokens=False) == ""


def test_a_lone_surrogate_is_the_requests_fault(tokenizer: Load) -> None:
    with pytest.raises(ValidationError, match=r"^Input validation error: tokenizer error "):
        tokenizer("gpt2").encode("a\ud800")
    with pytest.raises(ValidationError):
        tokenizer("gpt2").encode_with_offsets("a\ud800")


def test_a_llama_2_file_is_taken_at_its_word(tokenizer_folder: Folder, tmp_path: Path) -> None:
    source = (tokenizer_folder("llama_2_style") / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(source)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizerFast", "legacy": false}')
    for text in (" the dog", "a</s>b <s> c"):
        assert Tokenizer.from_folder(tmp_path).encode(text) == Backend.from_str(source).encode(text).ids


def test_model_max_length(tokenizer: Load, tokenizer_folder: Folder) -> None:
    assert tokenizer("llama_2_style").model_max_length == 4096
    # transformers writes 1e30 for "no limit".
    assert json.loads((tokenizer_folder("gpt2") / "tokenizer_config.json").read_text())["model_max_length"] > 10**29
    assert tokenizer("gpt2").model_max_length is None


def test_other_tokenizer_config(tokenizer_folder: Folder, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"eos_token": "<s>", "chat_template": "other"}))
    loaded = Tokenizer.from_folder(tokenizer_folder("llama_2_style"), tokenizer_config_path=other)
    assert (loaded.eos_token, loaded.eos_token_id, loaded.bos_token) == ("<s>", 1, None)
    assert loaded.chat_templates == {"default": "other"}
    with pytest.raises(ConfigError, match=r"gone\.json does not exist"):
        Tokenizer.from_folder(tokenizer_folder("gpt2"), tokenizer_config_path=tmp_path / "gone.json")


def test_json_round_trip_keeps_the_additions(tokenizer: Load, tmp_path: Path) -> None:
    original = tokenizer("llama_2_style")
    (tmp_path / "tokenizer.json").write_text(original.to_json())
    text = "a<PAD>b<image>"
    assert Tokenizer.from_folder(tmp_path).encode(text) == original.encode(text)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer.json$"),
        ({"vocab.json": "{}", "merges.txt": ""}, "has no tokenizer.json, only vocab.json: it must be converted"),
        ({"spiece.model": ""}, "has no tokenizer.json, only spiece.model: it must be converted"),
        ({"tokenizer.json": "{"}, "tokenizer.json cannot be read"),
        ({"tokenizer.json": "\udcff"}, "cannot read .*tokenizer.json"),
        ({"tokenizer.json": None, "tokenizer_config.json": "{"}, "tokenizer_config.json is not valid JSON"),
        ({"tokenizer.json": None, "tokenizer_config.json": "[]"}, "tokenizer_config.json is not a JSON object"),
    ],
)
def test_a_wrong_folder_is_a_config_error(
    files: dict[str, str | None], message: str, tokenizer_folder: Folder, tmp_path: Path
) -> None:
    for name, content in files.items():
        source = (tokenizer_folder("gpt2") / name).read_text() if content is None else content
        (tmp_path / name).write_bytes(source.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_folder(tmp_path)


def _template(name: str) -> dict[str, str]:
    return {"chat_template": name}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        (
            {
                "chat_template.json": _template("1"),
                "tokenizer_config.json": _template("2"),
                "processor_config.json": _template("3"),
                "chat_template.jinja": "4",
            },
            {"default": "1"},
        ),
        (
            {"tokenizer_config.json": _template("2"), "processor_config.json": _template("3")},
            {"default": "2"},
        ),
        ({"tokenizer_config.json": {}, "processor_config.json": _template("3")}, {"default": "3"}),
        (
            {"chat_template.jinja": "4\n", "additional_chat_templates/tool_use.jinja": "5"},
            {"default": "4\n", "tool_use": "5"},
        ),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "6"}, {"name": 1}]}},
            {"rag": "6"},
        ),
    ],
)
def test_chat_template_precedence(
    files: dict[str, Any], expected: dict[str, str], tokenizer_folder: Folder, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder("gpt2") / "tokenizer.json").read_bytes())
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert Tokenizer.from_folder(tmp_path).chat_templates == expected
