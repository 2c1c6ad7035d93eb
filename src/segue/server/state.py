"""What the routes share: the served model as the server knows it, and the parts of one server."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import segue
from segue.core.config import ServeConfig
from segue.core.errors import ConfigError, RequestError
from segue.core.memory_plan import ModelDescription
from segue.engine.handle import EngineHandle
from segue.server.admission import Admission
from segue.server.grammars import GrammarAdmission
from segue.server.journal import log_failure
from segue.server.metrics import Metrics
from segue.server.openai_words import OpenAIWords
from segue.server.siblings import Siblings
from segue.server.token_lane import TokenLane
from segue.server.tracing import current_trace
from segue.text.chat_template import ChatTemplate
from segue.text.tokenizer import SHORT_TEXT_CHARS, Tokenizer, TokenSpan

if TYPE_CHECKING:
    from segue.server.otlp import TraceExporter

__all__ = ["API_VERSION", "ServedModel", "Server"]

T = TypeVar("T")

_TGI_VERSION = "3.3.6"
"""The version whose API this is: clients compare ``/info``'s version with TGI's."""
API_VERSION = f"{_TGI_VERSION}+segue.{segue.__version__}"


def _describe_nothing(model_id: str) -> ModelDescription:
    raise ConfigError(f"nothing is known of '{model_id}' here")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The model without its weights: its names and everything that turns text into ids and back."""

    model_id: str
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None = None
    """None: chat requests are answered with a template error."""
    tool_template: ChatTemplate | None = None
    """The model's template for conversations with functions, where it has one besides the other."""
    sha: str | None = None
    """The Hub's commit; None for a local folder."""
    pipeline_tag: str | None = None
    """The Hub's, e.g. ``text-generation``; None when unknown."""
    describe: Callable[[str], ModelDescription] = _describe_nothing
    """For the recommender: what is known of a model by its name. Raises SegueError."""


class Server:
    """The parts of one server, for the routes. No request's state is kept here."""

    def __init__(
        self, config: ServeConfig, engine: EngineHandle, model: ServedModel, siblings: Siblings | None = None
    ) -> None:
        """``siblings``: the processes that serve on the same port, where there are several."""
        self.siblings = siblings
        self.config = config
        self.engine = engine
        self.model = model
        self.metrics = Metrics(engine.info, engine.settle)
        self.lane = None if engine.lane is None else TokenLane(engine.lane, model.tokenizer)
        """None: all tokens come the long way."""
        self.version = API_VERSION
        self.system_fingerprint = f"{self.version}-native"
        self.words = OpenAIWords(config.openai_dialect)
        self.compute_type = config.compute_type or f"1-{engine.info.device_name or engine.info.device}"
        self.grammars = GrammarAdmission(is_enabled=not config.disable_grammar_support)
        permits = None if siblings is None else siblings.permits(config.max_concurrent_requests)
        self.admission = Admission(config, engine.info, self.encode, self.metrics, self.grammars.admit, permits)
        self.traces = _trace_exporter(config, self.version)
        """None: no traces are exported."""
        self._threads = ThreadPoolExecutor(config.validation_workers, thread_name_prefix="tokenize")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """``work()`` in one of the ``validation_workers`` threads; tokenizing releases the interpreter's lock there."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids, of a long text made in a thread. Raises ValidationError."""
        tokenizer = self.model.tokenizer
        if len(text) <= SHORT_TEXT_CHARS:
            return tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await self.in_thread(lambda: tokenizer.encode(text, add_special_tokens=add_special_tokens))

    async def encode_with_offsets(self, text: str, *, add_special_tokens: bool) -> list[TokenSpan]:
        """Tokens with their places, made in a thread. Raises ValidationError."""
        tokenizer = self.model.tokenizer
        return await self.in_thread(lambda: tokenizer.encode_with_offsets(text, add_special_tokens=add_special_tokens))

    def record_failure(self, name: str, error: RequestError) -> None:
        """Into the metrics, the log and the trace."""
        self.metrics.failure(error)
        trace = current_trace()
        if trace is not None:
            trace.note_failure(name, error)
        log_failure(name, error)

    def start(self) -> None:
        """Begin to take the engine's statistics."""
        self.engine.on_step.append(self.metrics.on_step)

    async def close(self) -> None:
        """Stop taking them, and let the threads go; running requests may end first."""
        self.engine.on_step.remove(self.metrics.on_step)
        self.metrics.settle()
        self._threads.shutdown(wait=False)
        self.grammars.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)


def _trace_exporter(config: ServeConfig, version: str) -> "TraceExporter | None":
    if config.otlp_endpoint is None:
        return None
    from segue.server.otlp import TraceExporter

    return TraceExporter(config.otlp_endpoint, config.otlp_service_name, version)
