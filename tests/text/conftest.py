"""One small trained tokenizer of each kind, as the folder that transformers itself would write for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from segue.text.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 3 o'clock, isn't it?",
    "Ein schöner Tag, déjà vu; 日本語のテキスト 😀 and more",
    "hello world\n\n  def f(x):\n\treturn x",
] * 4

TEXTS = [
    *CORPUS[:3],
    "",
    " leading",
    "trailing  ",
    "a</s> b <s>c<|endoftext|>d<pad>",
    "zero\u200dwidth, combining x\u0301 \x00 \x7f \u202e",
    "👩‍👩‍👧‍👦 🇦🇶 नमस्ते สวัสดี 한국어",
    "<mask> hi [MASK] there",
]


def _bpe(pre_tokenizer: Any, **trainer_options: Any) -> dict[str, Any]:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(show_progress=False, **trainer_options))
    return _vocab_of(backend)


def _vocab_of(backend: Backend) -> dict[str, Any]:
    model = json.loads(backend.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def _byte_level_bpe(specials: list[str]) -> dict[str, Any]:
    return _bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        vocab_size=420,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def _byte_fallback_bpe(bos: str, eos: str) -> dict[str, Any]:
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    return _bpe(
        pre_tokenizers.Metaspace(split=False),
        vocab_size=420,
        special_tokens=["<unk>", bos, eos, *byte_tokens],
        limit_alphabet=60,
    )


def _opt(folder: Path) -> None:
    vocab = _byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>"])
    source = folder / "source"
    source.mkdir()
    (source / "vocab.json").write_text(json.dumps(vocab["vocab"]))
    (source / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, vocab["merges"])))
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "pad_token": "<pad>"}
    config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>")
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "config.json").write_text('{"model_type": "opt"}')
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def _llama(folder: Path) -> None:
    transformers.LlamaTokenizer(
        **_byte_fallback_bpe("<s>", "</s>"), add_bos_token=True, add_eos_token=True, pad_token="[PAD]"
    ).save_pretrained(folder)


def _llama_2_style(folder: Path) -> None:
    """As the conversions of 2023 wrote it: spaces by normalizers, and a post-processor of its own."""
    backend = Backend(models.BPE(**_byte_fallback_bpe("<s>", "</s>"), byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
    }
    config |= {"add_bos_token": False, "pad_token": "<PAD>", "image_token": "<image>", "model_max_length": 4096}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _gemma(folder: Path) -> None:
    transformers.GemmaTokenizer(**_byte_fallback_bpe("<bos>", "<eos>")).save_pretrained(folder)


def _gpt2(folder: Path) -> None:
    transformers.GPT2Tokenizer(**_byte_level_bpe(["<|endoftext|>"])).save_pretrained(folder)


def _qwen2(folder: Path) -> None:
    vocab = _byte_level_bpe(["<|endoftext|>"])
    specials = ["<|im_start|>", "<|im_end|>", "<｜tool▁call｜>"]
    transformers.Qwen2Tokenizer(**vocab, extra_special_tokens=specials).save_pretrained(folder)


def _bart(folder: Path) -> None:
    vocab = _byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    transformers.RobertaTokenizer(**vocab).save_pretrained(folder)


def _t5(folder: Path) -> None:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=specials, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    vocab = [tuple(entry) for entry in json.loads(backend.to_str())["model"]["vocab"]]
    transformers.T5Tokenizer(vocab=vocab).save_pretrained(folder)


def _bert(folder: Path) -> None:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    vocab = json.loads(backend.to_str())["model"]["vocab"]
    transformers.BertTokenizer(vocab=vocab).save_pretrained(folder)


def _end_of_word_bpe(folder: Path) -> None:
    """A decoder that looks at neighbours: only a token that is not the last one gives the space after it."""
    backend = Backend(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False),
    )
    backend.save(str(folder / "tokenizer.json"))


BUILDERS: dict[str, Callable[[Path], None]] = {
    "bart": _bart,
    "bert": _bert,
    "end_of_word": _end_of_word_bpe,
    "gemma": _gemma,
    "gpt2": _gpt2,
    "llama": _llama,
    "llama_2_style": _llama_2_style,
    "opt": _opt,
    "qwen2": _qwen2,
    "t5": _t5,
}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            BUILDERS[kind](folders[kind])
        return folders[kind]

    return folder_of


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Callable[[str], Path]) -> Callable[[str], Tokenizer]:
    return lambda kind: Tokenizer.from_folder(tokenizer_folder(kind))


@pytest.fixture(params=sorted(BUILDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=range(len(TEXTS)))
def text(request: pytest.FixtureRequest) -> str:
    return TEXTS[request.param]
