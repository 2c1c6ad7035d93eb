import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from segue.text.detokenizer import IncrementalDetokenizer, generated_text
from segue.text.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]

ALPHABET = [
    *"abcdefghijklmnopqrstuvwxyz     \n\t.,;!?'\"<>|/\\09",
    *"éüßñçøåžşяюжбשלוםمرحباनमस्तेสวัสดี日本語中文한국어",
    *"\u0301\u0308\u0323\u200d\ufe0f\u202e\x00\x7f\xa0\u2028",
    *"😀🦊👩🏽🚀🇦🇶𝔘𝕟𐍈",
]


def random_text(seed: int, length: int = 60) -> str:
    return "".join(random.Random(seed).choices(ALPHABET, k=length))


def pushed(tokenizer: Tokenizer, tail: Sequence[int], ids: Sequence[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, tail)
    return [detokenizer.push(token_id) for token_id in ids]


def texts_by_tgi(tokenizer: Tokenizer, prompt: list[int], ids: list[int]) -> list[str]:
    """TGI's algorithm, which decodes a growing window twice a token."""
    all_ids, texts = list(prompt), []
    prefix, read = max(0, len(prompt) - 5), len(prompt)
    for token_id in ids:
        all_ids.append(token_id)
        before = tokenizer.decode(all_ids[prefix:read], skip_special_tokens=False)
        after = tokenizer.decode(all_ids[prefix:], skip_special_tokens=False)
        if len(after) > len(before) and not after.endswith("\ufffd"):
            texts.append(after[len(before) :])
            prefix, read = read, len(all_ids)
        else:
            texts.append("")
    return texts


@pytest.mark.parametrize("seed", range(8))
def test_texts_equal_tgis(seed: int, kind: str, tokenizer: Load) -> None:
    loaded = tokenizer(kind)
    prompt = loaded.encode(random_text(seed, 20) + "a")
    ids = loaded.encode(random_text(seed + 100) + "z", add_special_tokens=False)
    assert pushed(loaded, prompt, ids) == texts_by_tgi(loaded, prompt, ids)


@pytest.mark.parametrize("seed", range(8))
def test_joined_texts_are_what_the_prompt_lacks(seed: int, kind: str, tokenizer: Load) -> None:
    loaded = tokenizer(kind)
    ids = loaded.encode(random_text(seed) + "z")
    whole = loaded.decode(ids, skip_special_tokens=False)
    assert "".join(pushed(loaded, [], ids)) == whole
    # An end-of-word vocabulary cannot tell a word's end from the end of the text at an arbitrary split.
    splits = [] if kind == "end_of_word" else range(1, len(ids))
    for split in splits:
        before = loaded.decode(ids[:split], skip_special_tokens=False)
        if whole.startswith(before) and not before.endswith("\ufffd"):
            assert before + "".join(pushed(loaded, ids[:split], ids[split:])) == whole


@pytest.mark.parametrize("kind", ["bart", "gpt2", "opt", "qwen2"])
@pytest.mark.parametrize("seed", range(25))
def test_random_byte_level_ids_join_to_what_they_decode_to(seed: int, kind: str, tokenizer: Load) -> None:
    loaded = tokenizer(kind)
    rng = random.Random(seed)
    ids = [rng.randrange(loaded.vocab_size) for _ in range(150)] + loaded.encode("z", add_special_tokens=False)
    texts = pushed(loaded, [], ids)
    assert "".join(texts) == loaded.decode(ids, skip_special_tokens=False)
    assert texts == texts_by_tgi(loaded, [], ids)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_character_comes_with_the_token_that_completes_it(kind: str, tokenizer: Load) -> None:
    loaded = tokenizer(kind)
    prompt = loaded.encode("x")
    ids = loaded.encode("xⵣ", add_special_tokens=False)[-3:]
    assert pushed(loaded, prompt, ids) == ["", "", "ⵣ"]
    assert pushed(loaded, prompt, ids[:2]) == ["", ""]


def test_bytes_that_are_no_text_come_with_the_next_whole_character(tokenizer: Load) -> None:
    gpt2 = tokenizer("gpt2")
    byte = {value: gpt2.token_to_id(char) for value, char in ((0xFF, "ÿ"), (0xE6, "æ"), (0x97, "Ĺ"))}
    end = gpt2.eos_token_id
    ids = [byte[0xFF], byte[0xE6], byte[0x97], end]
    assert pushed(gpt2, [], [token_id for token_id in ids if token_id is not None]) == [
        "",
        "",
        "",
        "\ufffd\ufffd<|endoftext|>",
    ]


def test_an_invalid_run_of_byte_tokens_is_one_replacement_a_byte(tokenizer: Load) -> None:
    llama = tokenizer("llama")
    ids = [
        token_id for name in ("<0xE6>", "<0x97>", "<0x0A>", "a") if (token_id := llama.token_to_id(name)) is not None
    ]
    prompt = llama.encode("x")
    assert pushed(llama, prompt, ids) == ["", "", "", "\ufffd\ufffd\ufffda"]
    assert pushed(llama, prompt, ids) == texts_by_tgi(llama, prompt, ids)
    valid_again = [*ids, ids[2], ids[3]]
    assert pushed(llama, prompt, valid_again)[-2:] == ["\n", "a"]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_prompt_of_ids_may_end_inside_a_character(kind: str, tokenizer: Load) -> None:
    loaded = tokenizer(kind)
    ids = loaded.encode("xⵣ", add_special_tokens=False)
    letter = loaded.encode("x", add_special_tokens=False)[-1]
    assert pushed(loaded, ids[:-2], ids[-2:]) == ["", "ⵣ"]
    # An id that stands for nothing does not end the character.
    assert pushed(loaded, [*ids[:-2], 10**6], ids[-2:]) == ["", "ⵣ"]
    # The prompt's unfinished bytes are the prompt's: they give nothing here.
    assert pushed(loaded, ids[:-2], [letter, letter]) == ["x", "x"]
    assert pushed(loaded, ids[:-2], [ids[-3], letter]) == ["", "\ufffdx"]


def test_leading_space_after_the_prompt_but_not_at_the_start_of_all(tokenizer: Load) -> None:
    llama = tokenizer("llama_2_style")
    ids = llama.encode("the dog", add_special_tokens=False)
    assert "".join(pushed(llama, [], ids)) == "the dog"
    assert "".join(pushed(llama, llama.encode("so"), ids)) == " the dog"
    assert generated_text(llama, [], ids) == "the dog"
    assert generated_text(llama, llama.encode("so"), ids) == " the dog"


def test_special_tokens_have_text_but_are_not_in_the_generated_text(tokenizer: Load) -> None:
    qwen = tokenizer("qwen2")
    end = qwen.token_to_id("<|im_end|>")
    assert end is not None
    ids = [*qwen.encode("hello"), end]
    assert pushed(qwen, qwen.encode("x"), ids)[-1] == "<|im_end|>"
    assert generated_text(qwen, qwen.encode("x"), ids) == "hello"


def test_t5_starts_from_a_special_token(tokenizer: Load) -> None:
    t5 = tokenizer("t5")
    start = t5.token_to_id("<pad>")
    assert start is not None
    ids = t5.encode("the dog")
    texts = pushed(t5, [start], ids)
    # As TGI: the streamed text has the space, the generated text has not.
    assert "".join(texts) == " the dog</s>"
    assert texts == texts_by_tgi(t5, [start], ids)
    assert generated_text(t5, [start], ids) == "the dog"


# Not with an end-of-word vocabulary: there a special token takes part in the spacing of its neighbours.
@pytest.mark.parametrize("kind", ["bart", "bert", "gemma", "gpt2", "llama", "llama_2_style", "opt", "qwen2", "t5"])
@pytest.mark.parametrize("seed", range(10))
def test_generated_text_is_the_joined_texts_without_specials(seed: int, kind: str, tokenizer: Load) -> None:
    loaded = tokenizer(kind)
    rng = random.Random(seed)
    prompt = loaded.encode("and the dog", add_special_tokens=False)
    words = loaded.encode(random_text(seed) + "z", add_special_tokens=False)
    ids = []
    for word in words:
        ids += [word] if rng.random() < 0.9 else [word, *rng.choices(sorted(loaded.special_token_ids) or [word])]
    texts = pushed(loaded, prompt, ids)
    # A special token in the middle of a character ends it; only whole characters are promised.
    if not any("\ufffd" in text for text in texts):
        plain = [text for text, token_id in zip(texts, ids, strict=True) if token_id not in loaded.special_token_ids]
        assert generated_text(loaded, prompt, ids) == "".join(plain)


@pytest.mark.parametrize("kind", ["bart", "gpt2", "opt", "qwen2"])
def test_byte_level_generated_text_is_the_plain_decoding(kind: str, tokenizer: Load) -> None:
    loaded = tokenizer(kind)
    for seed in range(20):
        rng = random.Random(seed)
        ids = [rng.randrange(loaded.vocab_size) for _ in range(50)]
        assert generated_text(loaded, ids[:10], ids[10:]) == loaded.decode(ids[10:], skip_special_tokens=True)


@pytest.mark.parametrize("seed", range(20))
def test_generated_text_is_what_the_decoder_adds_to_the_prompt(seed: int, kind: str, tokenizer: Load) -> None:
    """With special and unknown ids, parts of characters, and none at all, wherever they stand."""
    loaded = tokenizer(kind)
    draw = random.Random(seed)
    some = [draw.randrange(loaded.vocab_size + 2) for _ in range(40)] + sorted(loaded.special_token_ids)
    words = loaded.encode("".join(draw.choices("abc ,.é", k=400)), add_special_tokens=False)
    for strangeness in (0.0, 0.02, 0.3):
        for size in (0, 1, 2, 5, 20):
            ids = [draw.choice(some if draw.random() < strangeness else words) for _ in range(size + 1)]
            prompt, new = ids[:1], ids[1:]
            before = loaded.decode(prompt, skip_special_tokens=True)
            is_whole = before and not before.endswith("\ufffd")
            wanted = loaded.decode(ids if is_whole else new, skip_special_tokens=True)
            assert generated_text(loaded, prompt, new) == wanted[len(before) if is_whole else 0 :]


def test_only_neighbour_blind_decoders_use_the_table(kind: str, tokenizer: Load) -> None:
    pieces = tokenizer(kind).pieces
    assert (pieces is None) == (kind == "end_of_word")
    if pieces is not None:
        assert pieces.is_byte_level == (kind in {"bart", "gpt2", "opt", "qwen2"})


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Sequence([decoders.Replace("aa", "b"), decoders.Fuse()]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
        decoders.CTC(),
        None,
    ],
)
def test_other_decoders_join_to_what_they_decode_to(decoder: object, tmp_path: Path) -> None:
    vocab = {token: index for index, token in enumerate(["a", " ", "b", "<pad>", "|", "ab "])}
    backend = Backend(models.WordLevel(vocab, unk_token="a"))
    if decoder is not None:
        backend.decoder = decoder
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.pieces is None
    for seed in range(20):
        rng = random.Random(seed)
        ids = [rng.randrange(len(vocab)) for _ in range(12)]
        assert pushed(loaded, ids[:4], ids[4:]) == texts_by_tgi(loaded, ids[:4], ids[4:])


def test_endless_replacement_characters_are_not_held_for_ever(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"\ufffd": 0}, unk_token="\ufffd"))
    backend.save(str(tmp_path / "tokenizer.json"))
    texts = pushed(Tokenizer.from_folder(tmp_path), [], [0] * 1000)
    held = [index for index, text in enumerate(texts) if text]
    assert 10 < len(held) < 100


def test_the_table_takes_an_added_token_outside_the_byte_alphabet_as_it_is(tmp_path: Path) -> None:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    added = ["Ġspaced", "né é", "é", "<｜x▁y｜>", "日本"]
    backend.add_tokens(added)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_folder(tmp_path)
    ids = [*range(len(added)), 1]
    assert "".join(pushed(loaded, [], ids)) == loaded.decode(ids, skip_special_tokens=False)


def test_unknown_ids_have_no_text(kind: str, tokenizer: Load) -> None:
    loaded = tokenizer(kind)
    ids = loaded.encode("the dog", add_special_tokens=False)
    assert "".join(pushed(loaded, ids, [10**6, *ids, 10**6])) == "".join(pushed(loaded, ids, ids))
