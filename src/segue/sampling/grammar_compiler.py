"""Grammars, compiled by llguidance in threads of their own: the engine's thread never waits for one.

llguidance releases the interpreter's lock while it compiles; what it may spend is bounded by ``core/grammar.py``.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import ReferenceType, WeakValueDictionary, ref

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from segue.core.grammar import JSON_OPTIONS, MAX_REGEX_CHARS, MAX_SCHEMA_CHARS, PARSER_LIMITS, Grammar, fault_text

__all__ = ["CompiledGrammar", "GrammarCompiler"]

NUM_THREADS = 2
MAX_CACHED = 64
"""Grammars kept though no sequence uses them."""

logger = logging.getLogger(__name__)


class CompiledGrammar:
    """A grammar on its way: ``is_ready`` comes to be True, then it is compiled or has an ``error``.

    It lives as long as somebody holds it; one that nobody holds when its turn comes is not compiled.
    """

    __slots__ = ("__weakref__", "_start", "error", "grammar", "is_ready")

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.is_ready = False
        self.error: str | None = None
        """Why it cannot be used; None as well before it is ready."""
        self._start: LLMatcher | None = None

    def matcher(self) -> LLMatcher:
        """A new matcher at the grammar's start, which shares the compiled tables. Takes some 10 us."""
        assert self._start is not None
        return self._start.deep_copy()


class GrammarCompiler:
    """All grammars of one model. ``prepare`` may be called in any thread."""

    def __init__(self, tokenizer_json: Callable[[], str], vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """``tokenizer_json`` gives the text of a ``tokenizer.json``; called in a thread, for the first grammar.

        ``vocab_size``: width of the logits. ``eos_token_ids``: not empty.
        """
        assert eos_token_ids, "without an end token a complete text cannot end"
        self.vocab_size = vocab_size
        self.eos_token_ids = tuple(eos_token_ids)
        self.on_ready: Callable[[], None] = lambda: None
        """Called in a compiling thread when a grammar has become ready."""
        self._tokenizer_json = tokenizer_json
        self._tokenizer: LLTokenizer | None = None
        self._tokenizer_lock = threading.Lock()
        self._lock = threading.Lock()
        self._known: WeakValueDictionary[Grammar, CompiledGrammar] = WeakValueDictionary()
        self._recent: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None

    def prepare(self, grammar: Grammar) -> CompiledGrammar:
        """Have it compiled, unless it is already. Never waits. Hold what comes back as long as it is needed."""
        with self._lock:
            compiled = self._known.get(grammar)
            if compiled is not None:
                if grammar in self._recent:
                    self._recent.move_to_end(grammar)
                return compiled
            compiled = self._known[grammar] = CompiledGrammar(grammar)
            if self._threads is None:
                self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")
        self._threads.submit(self._compile, ref(compiled))
        return compiled

    def _compile(self, reference: "ReferenceType[CompiledGrammar]") -> None:
        compiled = reference()
        if compiled is None:
            return
        try:
            compiled._start = self._start(compiled.grammar)
        except (ValueError, MemoryError) as error:
            compiled.error = fault_text(str(error) or type(error).__name__)
        except BaseException as error:  # a panic in Rust is no Exception
            logger.exception("A grammar could not be compiled")
            compiled.error = f"{type(error).__name__}: {fault_text(str(error))}"
        compiled.is_ready = True
        with self._lock:
            self._recent[compiled.grammar] = compiled
            dropped = self._recent.popitem(last=False) if len(self._recent) > MAX_CACHED else None
        del dropped  # freeing large tables takes time: not under the lock
        self.on_ready()

    def _start(self, grammar: Grammar) -> LLMatcher:
        """Raises ValueError."""
        tokenizer = self._shared_tokenizer()
        limits = LLParserLimits(**PARSER_LIMITS)
        matcher = LLMatcher(tokenizer, _llguidance_source(grammar), log_level=0, limits=limits)
        if not matcher.is_error():
            # The first mask is the dearest, and a copy shares the tables that it leaves behind.
            matcher.compute_bitmask()
            matcher.compute_ff_tokens()
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def _shared_tokenizer(self) -> LLTokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                text = self._tokenizer_json()
                bare = LLTokenizer(text, eos_token=list(self.eos_token_ids))
                num_ids = max(bare.vocab_size, self.vocab_size)
                if num_ids > bare.vocab_size:
                    bare = LLTokenizer(text, n_vocab=num_ids, eos_token=list(self.eos_token_ids))
                self._tokenizer = bare
            return self._tokenizer

    @property
    def num_mask_words(self) -> int:
        """32-bit words of a mask, which covers the tokenizer's ids and the logits' columns. After the first compile."""
        assert self._tokenizer is not None
        return -(-self._tokenizer.vocab_size // 32)


def _llguidance_source(grammar: Grammar) -> str:
    """Raises ValueError."""
    if grammar.kind == "regex":
        if len(grammar.source) > MAX_REGEX_CHARS:
            raise ValueError(f"the regular expression is longer than {MAX_REGEX_CHARS} characters")
        return LLMatcher.grammar_from_regex(grammar.source)
    if len(grammar.source) > MAX_SCHEMA_CHARS:
        raise ValueError(f"the grammar is longer than {MAX_SCHEMA_CHARS} characters")
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.source)
    return LLMatcher.grammar_from_json_schema(grammar.source, overrides=JSON_OPTIONS)
