"""Byte-level BPE tokenizers, trained on the corpus; numbers are split into digits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from training import chat_format, corpus

CHAT_SIZE = 2048
T5_SIZE = 1536
T5_SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
_SAMPLE_SEED = 1000
_SAMPLE_SIZE = 20_000


def chat_tokenizer() -> Tokenizer:
    """The chat model's tokenizer; encoding puts the begin token first."""
    documents = islice(corpus.chat_documents(_SAMPLE_SEED), _SAMPLE_SIZE)
    tokenizer = _train(
        ("".join(piece.text for piece in document) for document in documents), CHAT_SIZE, chat_format.SPECIAL_TOKENS
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in chat_format.TOOL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{chat_format.BEGIN} $A",
        pair=f"{chat_format.BEGIN} $A $B",
        special_tokens=[(chat_format.BEGIN, tokenizer.token_to_id(chat_format.BEGIN))],
    )
    return tokenizer


def t5_tokenizer() -> Tokenizer:
    """The encoder-decoder model's tokenizer; encoding puts the end token last."""
    tokenizer = _train(
        (f"{each.source}\n{each.target}" for each in islice(corpus.pairs(_SAMPLE_SEED), _SAMPLE_SIZE)),
        T5_SIZE,
        T5_SPECIAL_TOKENS,
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


def _train(texts: Iterator[str], size: int, special_tokens: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - (len(chat_format.TOOL_TOKENS) if special_tokens is chat_format.SPECIAL_TOKENS else 0),
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The markers of a chat are one token each, so their text must not teach merges.
    plain = (_without(text, special_tokens) for text in texts)
    tokenizer.train_from_iterator(plain, trainer)
    return tokenizer


def _without(text: str, tokens: tuple[str, ...]) -> str:
    for token in (*tokens, *chat_format.TOOL_TOKENS):
        text = text.replace(token, "\n")
    return text
