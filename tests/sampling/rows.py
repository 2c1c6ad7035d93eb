"""Rows and logits for the sampling tests."""

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from segue.core.grammar import Grammar
from segue.core.request import SamplingParams
from segue.sampling.grammar_compiler import CompiledGrammar, GrammarCompiler
from segue.sampling.row import SamplingRow

_seq_ids = itertools.count(10_000)


def row(
    history: Sequence[int] = (1, 2, 3),
    seed: int = 0,
    position: int | None = None,
    num_prompt_tokens: int = 1,
    seq_id: int | None = None,
    **params: Any,
) -> SamplingRow:
    at = len(history) if position is None else position
    own_id = next(_seq_ids) if seq_id is None else seq_id
    return SamplingRow(SamplingParams(**params), history, seed, at, num_prompt_tokens, own_id)


def random_logits(num_rows: int, vocab_size: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def letters_tokenizer() -> str:
    """``</s>`` is 0, then ``a`` to ``z``, then the other bytes, then some longer tokens."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    others = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(letters))
    merges = [("t", "r"), ("u", "e"), ("tr", "ue"), ("a", "b"), ('"', ":")]
    words = ["</s>", *letters, *others, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return str(tokenizer.to_str())


def letters_compiler(vocab_size: int) -> GrammarCompiler:
    return GrammarCompiler(letters_tokenizer, vocab_size, [0])


def prepared(compiler: GrammarCompiler, grammar: Grammar) -> CompiledGrammar:
    """The grammar, when it is ready."""
    news = threading.Event()
    compiler.on_ready = news.set
    compiled = compiler.prepare(grammar)
    while not compiled.is_ready:
        assert news.wait(60)
        news.clear()
    return compiled
