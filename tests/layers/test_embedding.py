"""The output head, tied and not, whatever the checkpoint holds."""

import torch

from segue.layers.embedding import Embedding, OutputHead


def loaded(embedding: torch.Tensor | None, head: torch.Tensor | None) -> tuple[Embedding, OutputHead]:
    table = Embedding(3, 2)
    output = OutputHead(3, 2, tied_to=table)
    if embedding is not None:
        table.load("weight", embedding, None)
    if head is not None:
        output.load("weight", head, None)
    output.finish_loading()
    return table, output


def test_shares_the_embedding() -> None:
    table, head = loaded(torch.randn(3, 2), None)
    assert head.weight is table.weight


def test_a_copy_beside_the_embedding_takes_no_memory() -> None:
    weight = torch.randn(3, 2)
    table, head = loaded(weight, weight.clone())
    assert head.weight is table.weight


def test_gives_the_embedding_its_weight_where_only_the_heads_is_there() -> None:
    weight = torch.randn(3, 2)
    table, head = loaded(None, weight)
    assert table.weight is head.weight
    assert torch.equal(table.weight, weight)


def test_keeps_another_weight() -> None:
    """config.json says tied and the checkpoint says otherwise: as in transformers, the checkpoint is right."""
    embedding, own = torch.randn(3, 2), torch.randn(3, 2)
    table, head = loaded(embedding, own)
    assert torch.equal(table.weight, embedding)
    assert torch.equal(head.weight, own)


def test_stays_missing_where_neither_is_there() -> None:
    table, head = loaded(None, None)
    assert table.weight.is_meta
    assert head.weight.is_meta
