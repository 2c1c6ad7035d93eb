"""Stand-ins for the server's neighbours: a tokenizer of bytes, and an engine that says what it is told to."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from segue.core.batch import ScheduledSequence
from segue.core.config import ServeConfig
from segue.core.output import EngineInfo, EngineStep, FinishReason, RequestOutput, StepStats, TokenOutput
from segue.core.request import Request
from segue.engine.handle import Lane, RequestStream, StepCallback, Streams
from segue.server.app import build_app
from segue.server.state import ServedModel
from segue.text.chat_template import ChatTemplate
from segue.text.tokenizer import Tokenizer

BOS, EOS = 0, 1
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
INFO = EngineInfo(
    model_type="fake",
    is_encoder_decoder=False,
    dtype="float32",
    device="cpu",
    vocab_size=258,
    max_input_tokens=200,
    max_total_tokens=2000,
    max_batch_prefill_tokens=1024,
    max_batch_total_tokens=4096,
    block_size=16,
    num_blocks=256,
    eos_token_ids=(EOS,),
    bos_token_id=BOS,
    device_name="test-cpu",
)


def byte_tokenizer(folder: Path, added: Sequence[AddedToken] = ()) -> Tokenizer:
    """Every byte is a token (``id_of``); ``<s>`` is put before a text, ``</s>`` is special too. Last come ``added``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": BOS, "</s>": EOS} | {char: index + 2 for index, char in enumerate(alphabet)}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    backend.add_tokens(list(added))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return Tokenizer.from_folder(folder)


Script = Callable[[Request], Iterable[RequestOutput]]


class ScriptedEngine:
    """An ``EngineHandle`` that plays ``script(request)``, one output a step, each after ``gate`` is open."""

    def __init__(self, info: EngineInfo = INFO, script: Script | None = None) -> None:
        self.info = info
        self.is_healthy = True
        self.requests: list[Request] = []
        self.aborted: list[int] = []
        self.script = script or says("")
        self.gate = asyncio.Event()
        self.gate.set()
        self.lane: Lane | None = None
        self._streams = Streams()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def on_step(self) -> list[StepCallback]:
        return self._streams.on_step

    def settle(self) -> None:
        """Nothing is kept back here."""

    def next_request_id(self) -> int:
        return self._streams.next_request_id()

    def abort(self, request_id: int) -> None:
        self.aborted.append(request_id)
        self._streams.end(request_id)

    def submit(self, request: Request) -> RequestStream:
        self.requests.append(request)
        stream = self._streams.open(request.request_id, self.aborted.append)
        if not self.is_healthy:
            self._streams.fail(request.request_id, "Server error: engine is down")
            return stream
        task = asyncio.get_running_loop().create_task(self._play(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stream

    async def _play(self, request: Request) -> None:
        for output in self.script(request):
            await self.gate.wait()
            await asyncio.sleep(0)
            if request.request_id in self.aborted:
                return
            stats = StepStats(num_running=1, num_used_blocks=3, num_total_blocks=256, num_scheduled_tokens=1)
            self._streams.deliver(EngineStep(outputs=(output,), stats=stats))


def outputs(
    request: Request, ids: Sequence[int], *, logprob: float = -0.5, tokens_a_step: int = 1, one_a_step: bool = False
) -> Iterator[RequestOutput]:
    """What an engine gives for ``ids``: until EOS among them, ``max_new_tokens``, or for ever if they run out.

    ``one_a_step``: those of ``tokens_a_step`` come of as many steps together.
    """
    limit = request.stop.max_new_tokens
    ids = list(ids)[:limit]
    num_top = request.sampling.top_n_tokens
    for start in range(0, len(ids), tokens_a_step):
        chunk = ids[start : start + tokens_a_step]
        is_first, end = start == 0, start + len(chunk)
        reason = FinishReason.LENGTH if end == limit else FinishReason.EOS_TOKEN if chunk[-1] == EOS else None
        prompt = request.prompt_token_ids
        wants_prompt = is_first and request.sampling.prompt_logprobs
        yield RequestOutput(
            request_id=request.request_id,
            tokens=tuple(
                TokenOutput(each, logprob, tuple((each + k, logprob - k) for k in range(num_top))) for each in chunk
            ),
            finish_reason=reason,
            prompt_logprobs=(None, *(-1.0 for _ in prompt[1:])) if wants_prompt else None,
            scheduled_time=time.monotonic() if is_first else None,
            num_steps=len(chunk) if one_a_step else 1,
        )


def id_of(byte: int) -> int:
    """The token of one byte."""
    return _BYTE_IDS[byte]


def ids_of(text: str) -> list[int]:
    """The tokens of a text, no specials."""
    return [id_of(byte) for byte in text.encode()]


def says(text: str, *, ends: bool = True, **options: Any) -> Script:
    """A script: generate ``text``, then EOS if it ``ends``."""
    return lambda request: outputs(request, [*ids_of(text), *([EOS] if ends else [])], **options)


def fails(text: str, after: str = "") -> Script:
    """A script: generate ``after``, then fail."""

    def script(request: Request) -> Iterator[RequestOutput]:
        yield from outputs(request, ids_of(after))
        yield RequestOutput(request_id=request.request_id, error=text)

    return script


def _byte_ids() -> list[int]:
    """Of each byte, in the order of ``byte_tokenizer``: GPT-2's printable characters first, then shifted ones."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {byte: chr(byte) for byte in printable}
    chars |= {byte: chr(256 + index) for index, byte in enumerate(b for b in range(256) if b not in chars)}
    order = {char: index + 2 for index, char in enumerate(sorted(chars.values()))}
    return [order[chars[byte]] for byte in range(256)]


_BYTE_IDS = _byte_ids()


class Serving:
    """One application with its engine, and an HTTP client to it that needs no socket."""

    def __init__(
        self, tokenizer: Tokenizer, *, script: Script | None = None, info: EngineInfo = INFO, **given: Any
    ) -> None:
        """``given``: options of ``ServeConfig`` or fields of ``ServedModel``."""
        model_fields = {
            name: given.pop(name) for name in ("model_id", "sha", "pipeline_tag", "describe") if name in given
        }
        template, tool_template = given.pop("chat_template", CHAT_TEMPLATE), given.pop("tool_template", None)
        self.engine = ScriptedEngine(info, script or says("hello"))
        self.model = ServedModel(
            tokenizer=tokenizer,
            chat_template=template and ChatTemplate(template, bos_token="<s>", eos_token="</s>"),
            tool_template=tool_template and ChatTemplate(tool_template, bos_token="<s>", eos_token="</s>"),
            **{"model_id": "test/model", **model_fields},
        )
        self.app = build_app(replace(ServeConfig(), **given), self.engine, self.model)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    async def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return await asyncio.wait_for(self.http.post(path, json=body, **options), 20)

    async def events(self, path: str, body: Any) -> list[Any]:
        """The ``data`` of each event of a stream, parsed unless it is ``[DONE]``."""
        text = (await self.post(path, body)).text
        events = text.split("\n\n")
        assert events.pop() == ""
        assert all(each.startswith("data: ") for each in events), text
        return [each if each == "[DONE]" else json.loads(each) for each in (event[6:] for event in events)]

    async def metric(self, name: str) -> float:
        """A sample by its name and labels as ``/metrics`` writes them."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        [value] = [line.rsplit(" ", 1)[1] for line in lines if line.rsplit(" ", 1)[0] == name]
        return float(value)


class Connection:
    """One request below HTTP, whose client can leave and whose every message from the server is kept."""

    def __init__(self, app: Any, path: str, body: Any, *, headers: dict[str, str] | None = None) -> None:
        fields = {"content-type": "application/json", **(headers or {})}
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "http_version": "1.1",
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
        }
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
        self.messages: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(app(self._scope, self._incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._news.set()

    @property
    def writes(self) -> list[bytes]:
        """Every piece of the body."""
        return [each["body"] for each in self.messages if each["type"] == "http.response.body"]

    async def until_writes(self, count: int) -> list[bytes]:
        """Wait for so many pieces of the body."""
        async with asyncio.timeout(20):
            while len(self.writes) < count:
                self._news.clear()
                await self._news.wait()
        return self.writes

    async def leave(self) -> None:
        """The client closes the connection; returns when the application has seen to that."""
        self._incoming.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(self.task, 20)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until ``condition`` holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def echo(sequence: ScheduledSequence) -> int:
    """For ``FakeRunner``: the prompt again, then EOS; a prompt that begins with "endless" is repeated for ever.

    Of those, each token takes some time: at a fake device's full speed they reached their limit of tokens, and ended,
    before a busy machine had opened the next stream.
    """
    start = 1 if sequence.history[0] == BOS else 0
    prompt = sequence.history[start : sequence.num_prompt_tokens]
    position = len(sequence.history) - sequence.num_prompt_tokens
    if list(prompt[:7]) == ids_of("endless"):
        time.sleep(0.005)
        return prompt[position % len(prompt)]
    return prompt[position] if position < len(prompt) else EOS


def is_boom(sequence: ScheduledSequence) -> bool:
    """For ``FakeRunner``: prompts that begin with "boom" fail."""
    return list(sequence.history[1:5]) == ids_of("boom")


@dataclass
class RunningServer:
    """Where it is, and what its engine last reported."""

    url: str
    api_key: str
    max_concurrent_requests: int
    stats: StepStats = field(default_factory=StepStats)
