"""Token ids from the corpus: packed rows for the chat model, padded pairs for the encoder-decoder model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from tokenizers import Tokenizer

from training import chat_format, corpus
from training.document import Piece

# What the model is told weighs this much in the loss, against 1 for what it has to say.
TOLD_WEIGHT = 0.1
_BUFFER = 1024


@dataclass(frozen=True, slots=True)
class Packed:
    """Inputs, targets (int64) and the targets' weights (float32), each [rows, length]."""

    input_ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, slots=True)
class Padded:
    """Sources and their mask [rows, source length]; targets [rows, target length], -100 where padded."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def _encode(tokenizer: Tokenizer, documents: list[list[Piece]]) -> Iterator[tuple[list[int], list[float]]]:
    """Ids and weights of each document, begin token first; a document is cut into tokens as one string."""
    texts = ["".join(piece.text for piece in document) for document in documents]
    begin = tokenizer.token_to_id(chat_format.BEGIN)
    for document, encoding in zip(documents, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        ends, at = [], 0
        for piece in document:
            at += len(piece.text)
            ends.append((at, 1.0 if piece.learned else TOLD_WEIGHT))
        weights, piece_at = [0.0], 0
        for start, _ in encoding.offsets:
            while start >= ends[piece_at][0]:
                piece_at += 1
            weights.append(ends[piece_at][1])
        yield [begin, *encoding.ids], weights


def packed(tokenizer: Tokenizer, seed: int, rows: int, length: int) -> Iterator[Packed]:
    """Endless batches; a row holds whole documents (only one longer than a row is cut), padded with weight 0."""
    documents = corpus.chat_documents(seed)
    rng = Random(seed)
    full: list[tuple[list[int], list[float]]] = []
    while True:
        opened: list[tuple[list[int], list[float]]] = []
        for ids, weights in _encode(tokenizer, list(islice(documents, _BUFFER))):
            place = next((row for row in opened if len(row[0]) + len(ids) <= length + 1), None)
            if place is None:
                # One row in ten begins without the begin token, for prompts that come without it.
                skip = int(rng.random() < 0.1)
                opened.append((ids[skip : length + 1 + skip], weights[skip : length + 1 + skip]))
            else:
                place[0].extend(ids)
                place[1].extend(weights)
        full += opened
        rng.shuffle(full)
        while len(full) >= rows:
            taken, full = full[:rows], full[rows:]
            ids_table = torch.zeros(rows, length + 1, dtype=torch.int64)
            weight_table = torch.zeros(rows, length + 1)
            for at, (ids, weights) in enumerate(taken):
                ids_table[at, : len(ids)] = torch.tensor(ids)
                weight_table[at, : len(ids)] = torch.tensor(weights)
            yield Packed(ids_table[:, :-1], ids_table[:, 1:], weight_table[:, 1:])


def padded(tokenizer: Tokenizer, seed: int, rows: int) -> Iterator[Padded]:
    """Endless batches of pairs of similar length."""
    pairs = corpus.pairs(seed)
    rng = Random(seed)
    while True:
        chunk = list(islice(pairs, rows * 16))
        sources = [encoding.ids for encoding in tokenizer.encode_batch([each.source for each in chunk])]
        targets = [encoding.ids for encoding in tokenizer.encode_batch([each.target for each in chunk])]
        order = sorted(range(len(chunk)), key=lambda at: (len(sources[at]), len(targets[at])))
        groups = [order[at : at + rows] for at in range(0, len(order), rows)]
        rng.shuffle(groups)
        for group in groups:
            inputs = _pad([sources[at] for at in group], 0)
            yield Padded(inputs, (inputs != 0).long(), _pad([targets[at] for at in group], -100))


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    table = torch.full((len(rows), max(len(row) for row in rows)), value)
    for at, row in enumerate(rows):
        table[at, : len(row)] = torch.tensor(row)
    return table
