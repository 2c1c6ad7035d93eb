"""Masks, forced tokens, and that the state of a sequence can be lost at any moment."""

import json
import random
import threading

import pytest
import torch
from sampling.rows import letters_compiler, letters_tokenizer, prepared, random_logits, row
from tokenizers import Tokenizer

from segue.core.errors import GenerationError
from segue.core.grammar import MAX_REGEX_CHARS, Grammar
from segue.sampling import grammar as grammar_module
from segue.sampling import grammar_compiler
from segue.sampling.grammar import GrammarStates
from segue.sampling.grammar_compiler import GrammarCompiler
from segue.sampling.processors.grammar_mask import GrammarMask
from segue.sampling.row import SamplingRow
from segue.sampling.sampler import Sampler

VOCAB_SIZE = 300
EOS = 0
TOKENIZER = Tokenizer.from_str(letters_tokenizer())
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["alpha", "alphabet", "beta"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "kind", "tags"],
    "additionalProperties": False,
}
GRAMMARS = [
    Grammar("json_schema", json.dumps(SCHEMA)),
    Grammar("regex", "(yes|no|maybe)( indeed)?"),
    Grammar("regex", r"[0-9]{3}-[0-9]{4}"),
    Grammar("regex", "abababab"),
]


@pytest.fixture
def compiler() -> GrammarCompiler:
    return letters_compiler(VOCAB_SIZE)


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


def allowed(states: GrammarStates, each: SamplingRow) -> set[int]:
    [mask] = states.masks([each])
    return {i for i in range(VOCAB_SIZE) if mask[i // 32].item() >> (i % 32) & 1}


def follow(states: GrammarStates, grammar: Grammar, seed: int, *, seq_id: int = 0, forget: float = 0.0) -> list[int]:
    """Random choices until the end; the state is lost with the probability ``forget`` before each."""
    rng, lose = random.Random(seed), random.Random(seed + 1)
    history = [5, 6]
    for _ in range(200):
        each = row(history, seq_id=seq_id, num_prompt_tokens=2, grammar=grammar)
        if lose.random() < forget:
            states._states.clear()
        choice = rng.choice(sorted(allowed(states, each)))
        if lose.random() < forget:
            states._states.clear()
        history = [*history, choice, *states.forced_after(each, choice)]
        if history[-1] == EOS:
            return history[2:]
    raise AssertionError("it does not end")


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.source[:20])
@pytest.mark.parametrize("seed", range(20))
def test_a_lost_state_is_replayed(compiler: GrammarCompiler, grammar: Grammar, seed: int) -> None:
    held = prepared(compiler, grammar)
    kept = follow(GrammarStates(compiler), grammar, seed)
    assert follow(GrammarStates(compiler), grammar, seed, forget=0.5) == kept
    assert held.error is None
    if grammar.kind == "json_schema":
        assert list(json.loads(TOKENIZER.decode(kept[:-1]))) == ["name", "kind", "tags"]


def test_a_state_of_another_history_is_not_used(compiler: GrammarCompiler) -> None:
    held = prepared(compiler, Grammar("regex", "ab*c"))
    states = GrammarStates(compiler)
    first = row(ids("a"), seq_id=0, num_prompt_tokens=0, grammar=held.grammar)
    assert allowed(states, first) == {*ids("b"), *ids("c")}
    assert states.forced_after(first, ids("c")[0]) == (EOS,)
    again = row(ids("a"), seq_id=0, num_prompt_tokens=0, grammar=held.grammar)  # as when the step is run again
    assert allowed(states, again) == {*ids("b"), *ids("c")}
    other = prepared(compiler, Grammar("regex", "ad|ae"))
    assert allowed(states, row(ids("a"), seq_id=0, num_prompt_tokens=0, grammar=other.grammar)) == {
        *ids("d"),
        *ids("e"),
    }


def test_forced_tokens_are_the_tokenizers_own(compiler: GrammarCompiler) -> None:
    held = prepared(compiler, Grammar("regex", "true|trueab"))
    states = GrammarStates(compiler)
    start = row([9], grammar=held.grammar, num_prompt_tokens=1)
    [only] = allowed(states, start)
    spelled = [only, *states.forced_after(start, only)]
    assert "true".startswith(TOKENIZER.decode(spelled))
    done = prepared(compiler, Grammar("regex", 'x"true"'))
    start = row([9], seq_id=1, grammar=done.grammar, num_prompt_tokens=1)
    [only] = allowed(states, start)
    assert [only, *states.forced_after(start, only)] == [*ids('x"true"'), EOS]


def test_eos_only_where_the_text_may_end(compiler: GrammarCompiler) -> None:
    held = prepared(compiler, Grammar("regex", "a(bc)?"))
    states = GrammarStates(compiler)
    assert EOS not in allowed(states, row([9], grammar=held.grammar, num_prompt_tokens=1))
    assert EOS in allowed(states, row([9, *ids("a")], grammar=held.grammar, num_prompt_tokens=1))
    assert EOS not in allowed(states, row([9, *ids("a"), *ids("b")], grammar=held.grammar, num_prompt_tokens=1))
    nothing = prepared(compiler, Grammar("regex", ""))
    assert allowed(states, row([9], grammar=nothing.grammar, num_prompt_tokens=1)) == {EOS}


def test_after_an_ignored_end_everything_goes(compiler: GrammarCompiler) -> None:
    held = prepared(compiler, Grammar("regex", "ab|ac"))
    states = GrammarStates(compiler)
    complete = row(ids("a") + ids("c"), num_prompt_tokens=0, grammar=held.grammar, ignore_eos=True)
    assert allowed(states, complete) == {EOS}
    assert (
        states.forced_after(
            row(ids("a"), seq_id=3, num_prompt_tokens=0, grammar=held.grammar, ignore_eos=True), ids("c")[0]
        )
        == ()
    )
    beyond = row([*ids("a"), *ids("c"), EOS], num_prompt_tokens=0, grammar=held.grammar, ignore_eos=True)
    assert len(allowed(states, beyond)) == VOCAB_SIZE
    assert states.forced_after(beyond, 7) == ()


def test_states_of_sequences_that_are_gone_are_dropped(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "MIN_STATES", 4)
    held = prepared(compiler, Grammar("regex", "a*"))
    states = GrammarStates(compiler)
    for seq_id in range(20):
        states.masks([row([9], seq_id=seq_id, grammar=held.grammar, num_prompt_tokens=1)])
    assert list(states._states) == [16, 17, 18, 19]


def test_a_batch_is_masked_row_by_row(compiler: GrammarCompiler) -> None:
    helds = [prepared(compiler, grammar) for grammar in GRAMMARS]
    rows = [row([9], seq_id=i, num_prompt_tokens=1, grammar=held.grammar) for i, held in enumerate(helds)]
    rows.insert(2, row([9], seq_id=77))
    sampler = Sampler(VOCAB_SIZE, grammars=GrammarStates(compiler))
    logits = random_logits(len(rows), VOCAB_SIZE)
    together = sampler.sample(logits, rows)
    for i, each in enumerate(rows):
        [alone] = Sampler(VOCAB_SIZE, grammars=GrammarStates(compiler)).sample(logits[i : i + 1], [each])
        assert alone == together[i]
    assert together[2] == Sampler(VOCAB_SIZE).sample(logits[2:3], rows[2:3])[0]


def test_logprobs_are_those_of_what_is_allowed(compiler: GrammarCompiler) -> None:
    held = prepared(compiler, Grammar("regex", "[abc]x"))
    sampler = Sampler(VOCAB_SIZE, grammars=GrammarStates(compiler))
    logits = random_logits(1, VOCAB_SIZE)
    each = row([9], num_prompt_tokens=1, grammar=held.grammar, top_n_tokens=5)
    [chosen] = sampler.sample(logits, [each])
    expected = logits[0, 1:4].log_softmax(-1)
    assert chosen.logprob == pytest.approx(expected.max().item(), abs=1e-5)
    assert {token_id: pytest.approx(value, abs=1e-5) for token_id, value in chosen.top_tokens} == {
        i + 1: value for i, value in enumerate(expected.tolist())
    }
    forced = sampler.forced_after(each, chosen)
    assert [(f.token_id, f.logprob, f.top_tokens) for f in forced] == [
        (ids("x")[0], 0.0, ((ids("x")[0], 0.0),)),
        (EOS, 0.0, ((EOS, 0.0),)),
    ]


def test_logits_wider_than_the_tokenizer() -> None:
    """Rows that pad an embedding are no tokens."""
    compiler = letters_compiler(1024)
    held = prepared(compiler, Grammar("regex", ".*"))
    sampler = Sampler(1024, grammars=GrammarStates(compiler))
    logits = torch.zeros(1, 1024)
    logits[0, 900] = 50.0
    [chosen] = sampler.sample(logits, [row([9], num_prompt_tokens=1, grammar=held.grammar)])
    assert chosen.token_id < TOKENIZER.get_vocab_size()


def test_logits_narrower_than_the_tokenizer() -> None:
    compiler = letters_compiler(27)
    held = prepared(compiler, Grammar("regex", "[a-z]{3}"))
    processor = GrammarMask(27, GrammarStates(compiler))
    columns = processor.columns([row([9], num_prompt_tokens=1, grammar=held.grammar)])
    assert columns is not None
    assert processor.apply(torch.zeros(1, 27), columns).isfinite().sum() == 26


HOSTILE = {
    "squares": "(a{1000}){1000}",
    "cubes": "((a{1000}){1000}){1000}",
    "options": "a?" * 2000 + "a" * 2000,
    "nested options": "(" + "a?" * 1000 + "){1000}",
    "alternatives": "((a|aa|aaa){1,1000}){1,1000}",
    "far back": ".*a.{1000}b",
    "classes": r"(\p{L}|\p{N}){0,1000}(\w\W){0,1000}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_expression_fails_alone_or_works(compiler: GrammarCompiler, name: str) -> None:
    held = prepared(compiler, Grammar("regex", HOSTILE[name]))
    if held.error is not None:
        assert "\n" not in held.error
        return
    good = prepared(compiler, GRAMMARS[1])
    sampler = Sampler(VOCAB_SIZE, grammars=GrammarStates(compiler))
    history = [9]
    for _ in range(30):
        rows = [
            row(history, seq_id=1, num_prompt_tokens=1, grammar=held.grammar),
            row([9], seq_id=2, num_prompt_tokens=1, grammar=good.grammar),
        ]
        bad, well = sampler.sample(torch.zeros(2, VOCAB_SIZE), rows)
        assert not isinstance(well, GenerationError)
        if isinstance(bad, GenerationError):
            assert (sampler.grammar_error(rows[0]) or "").startswith("grammar: ")
            assert sampler.grammar_error(rows[1]) is None
            return
        history = [*history, bad.token_id, *(f.token_id for f in sampler.forced_after(rows[0], bad))]
        if history[-1] == EOS:
            return


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (Grammar("regex", "("), "unclosed group"),
        (Grammar("regex", "(?=a)b"), "look-around"),
        (Grammar("regex", "a" * (MAX_REGEX_CHARS + 1)), "longer than"),
        (Grammar("json_schema", "{"), "EOF"),
        (Grammar("json_schema", '{"type": "strng"}'), "strng"),
        (Grammar("json_schema", "{" + " " * 200_000 + "}"), "longer than"),
        (Grammar("json_schema", '{"items":' * 500 + "{}" + "}" * 500), "recursion"),
    ],
)
def test_what_cannot_be_compiled(compiler: GrammarCompiler, grammar: Grammar, text: str) -> None:
    error = prepared(compiler, grammar).error
    assert error is not None
    assert text in error
    assert "\n" not in error


def test_a_tokenizer_that_cannot_be_used_is_an_error() -> None:
    compiler = GrammarCompiler(lambda: "{}", VOCAB_SIZE, [EOS])
    assert prepared(compiler, GRAMMARS[1]).error is not None


def test_compiled_once_while_held_and_forgotten_in_order(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_compiler, "MAX_CACHED", 2)
    held = prepared(compiler, Grammar("regex", "a1"))
    for text in ("a2", "a3", "a4"):
        prepared(compiler, Grammar("regex", text))
    assert list(compiler._recent) == [Grammar("regex", "a3"), Grammar("regex", "a4")]
    assert compiler.prepare(Grammar("regex", "a1")) is held
    assert compiler.prepare(Grammar("regex", "a3")).is_ready
    assert Grammar("regex", "a2") not in compiler._known


def test_nobody_waits_for_a_compilation_and_what_nobody_wants_any_more_is_not_compiled() -> None:
    gate, asked = threading.Event(), []

    def slow_tokenizer() -> str:
        gate.wait(60)
        return letters_tokenizer()

    compiler = GrammarCompiler(slow_tokenizer, VOCAB_SIZE, [EOS])
    compile_one = compiler._start
    compiler._start = lambda grammar: (asked.append(grammar.source), compile_one(grammar))[1]  # type: ignore[method-assign, func-returns-value]
    running = [compiler.prepare(Grammar("regex", text)) for text in ("r1", "r2")]  # one for each thread
    dropped = compiler.prepare(Grammar("regex", "dropped"))
    assert not dropped.is_ready
    del dropped
    gate.set()
    for each in (*running, Grammar("regex", "last")):
        assert prepared(compiler, each if isinstance(each, Grammar) else each.grammar).error is None
    assert sorted(asked) == ["last", "r1", "r2"]


def guesses_of(states: GrammarStates, grammar: Grammar, history: list[int], seed: int, num_guesses: int) -> list[int]:
    """Some that the grammar allows, then at random one that it may not."""
    rng = random.Random(seed)
    guesses: list[int] = []
    for _ in range(num_guesses):
        each = row([*history, *guesses], seq_id=99, num_prompt_tokens=2, grammar=grammar)
        is_random = rng.random() < 0.2
        options = sorted(allowed(states, each))
        guesses.append(rng.choice(options) if options and not is_random else rng.randrange(VOCAB_SIZE))
    return guesses


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_S10_masks_after_each_guess(compiler: GrammarCompiler, seed: int, ignore_eos: bool) -> None:
    """Those of all places at once are those of each alone, up to a guess that is not allowed; then states go back."""
    helds = [prepared(compiler, grammar) for grammar in GRAMMARS]
    states, scratch = GrammarStates(compiler), GrammarStates(compiler)
    rng = random.Random(seed)
    rows, is_asked = [], []
    for i, held in enumerate(helds):
        history = [5, 6]
        for _ in range(rng.randrange(3)):
            here = row(history, seq_id=i, num_prompt_tokens=2, grammar=held.grammar, ignore_eos=ignore_eos)
            history = [*history, rng.choice(sorted(allowed(states, here)))]
        guesses = guesses_of(scratch, held.grammar, history, seed + i, rng.randrange(5))
        is_open = True
        for k in range(len(guesses) + 1):
            here = row(
                history + guesses[:k], seq_id=i, num_prompt_tokens=2, grammar=held.grammar, ignore_eos=ignore_eos
            )
            if k > 0:
                is_open = is_open and guesses[k - 1] in allowed(GrammarStates(compiler), rows[-1])
            rows.append(here)
            is_asked.append(is_open)
    masks = states.masks(rows)
    for mask, here, is_open in zip(masks, rows, is_asked, strict=True):
        if is_open:
            [alone] = GrammarStates(compiler).masks([here])
            assert torch.equal(mask, alone)
        else:
            assert (mask == -1).all()
    for here, is_open in reversed(list(zip(rows, is_asked, strict=True))):
        if is_open:
            assert allowed(states, here) == allowed(GrammarStates(compiler), here)


def test_S10_going_back_needs_no_replay(compiler: GrammarCompiler) -> None:
    held = prepared(compiler, Grammar("regex", "[a-z]*"))
    states = GrammarStates(compiler)
    history = ids("abcdefgh")
    rows = [row(history + ids("xyz")[:k], seq_id=1, num_prompt_tokens=0, grammar=held.grammar) for k in range(4)]
    states.masks(rows)
    matcher = states._states[1].matcher
    assert states._states[1].consumed == history + ids("xyz")
    assert states.forced_after(rows[0], ids("q")[0]) == ()
    assert states._states[1].consumed == history + ids("q")
    assert states._states[1].matcher is matcher


def test_S10_an_end_token_among_guesses(compiler: GrammarCompiler) -> None:
    held = prepared(compiler, Grammar("regex", "ab*"))
    states = GrammarStates(compiler)
    rows = [
        row([*ids("a"), *[EOS, 7][:k]], seq_id=1, num_prompt_tokens=0, grammar=held.grammar, ignore_eos=True)
        for k in range(3)
    ]
    masks = states.masks(rows)
    assert [bool((mask == -1).all()) for mask in masks] == [False, True, True]
    assert allowed(states, rows[0]) == {EOS, *ids("b")}
    assert states.forced_after(rows[0], ids("b")[0]) == ()
    assert states._states[1].consumed == [*ids("a"), *ids("b")]
