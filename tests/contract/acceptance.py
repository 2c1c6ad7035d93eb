"""The acceptance list: what a drop-in successor of TGI 3.3 does. A test shows a row by its id: ``test_R1_…``.

``scripts/parity`` runs those tests and prints the list with what came out.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROWS", "Row", "row_ids", "row_tests"]

_TABLE = """
R1  | Routes      | POST /generate gives a single object                                         | M
R2  | Routes      | POST / gives an array or, asked for, a stream                                | M
R3  | Routes      | POST /generate_stream, without [DONE]                                        | M
R4  | Routes      | POST /v1/chat/completions                                                    | M
R5  | Routes      | POST /v1/completions, lists of prompts too                                   | M
R6  | Routes      | POST /tokenize and /chat_tokenize                                            | M
R7  | Routes      | GET /health, /ping and /                                                     | M
R8  | Routes      | GET /info has TGI's keys                                                     | M
R9  | Routes      | GET /v1/models                                                               | M
R10 | Routes      | GET /metrics                                                                 | M
R11 | Routes      | POST /invocations, three kinds of bodies                                     | M
R12 | Routes      | POST /vertex, the routes and the port of AIP_*                               | M
R13 | Routes      | /docs and /api-doc/openapi.json                                              | S
R14 | Routes      | KServe /v2                                                                   | S
R15 | Routes      | 404 and 405 without a body                                                   | S
H1  | HTTP        | API key on the routes that need it, 401 without a body                       | M
H2  | HTTP        | CORS, any origin or a list                                                   | M
H3  | HTTP        | limit of the payload, 413                                                    | M
H4  | HTTP        | 400, 415 and 422 in plain text for bodies that cannot be read                | M
H5  | HTTP        | error object and the status of each kind                                     | M
H6  | HTTP        | NaN and infinities are null                                                  | M
H7  | HTTP        | timing headers                                                               | M
H8  | HTTP        | headers of streams, a comment every 15 s of silence                          | M
H9  | HTTP        | errors inside a stream keep 200                                              | M
H10 | HTTP        | a client that leaves cancels its request                                     | M
H11 | HTTP        | SIGTERM lets running streams end                                             | M
V1  | Validation  | every message, word for word                                                 | M
V2  | Validation  | do_sample is true by default only without parameters                         | M
V3  | Validation  | top_p and typical_p of 1.0 are refused                                       | M
V4  | Validation  | truncate keeps the last tokens                                               | M
V5  | Validation  | max_new_tokens fills the context by default, is honoured beyond 1024         | M
V6  | Validation  | grammars as json, json_object, regex, json_schema, schemas as strings        | M
V7  | Validation  | a schema without properties is refused in TGI's words                        | M
V8  | Validation  | --disable-grammar-support                                                    | M
V9  | Validation  | OpenAI's own response_format                                                 | O
G1  | Generate    | details: prefill, tokens, top_tokens, best_of_sequences                      | M
G2  | Generate    | decoder_input_details needs --enable-prefill-logprobs                        | M
G3  | Generate    | return_full_text, its default on / by pipeline_tag                           | M
G4  | Generate    | stop text is kept, special tokens are not in the text                        | M
G5  | Generate    | incremental detokenization holds back parts of characters                    | M
G6  | Generate    | when the seed is reported                                                    | M
G7  | Generate    | best_of by mean logprob                                                      | M
C1  | Chat        | messages as text, chunks and tool calls                                      | M
C2  | Chat        | chat templates: strftime_now, raise_exception, which file counts             | M
C3  | Chat        | chat_template.jinja and named templates                                      | O
C4  | Chat        | the assistant's last message is continued                                    | M
C5  | Chat        | temperature 0 is greedy; presence_penalty                                    | M
C6  | Chat        | finish_reason stop, length, stop_sequence                                    | M
C7  | Chat        | logprobs and top_logprobs                                                    | M
C8  | Chat        | system_fingerprint, id, model                                                | M
C9  | Chat        | chunks of a stream, usage null, include_usage, [DONE]                        | M
C10 | Chat        | OpenAI's error event                                                         | M
C11 | Chat        | tools: auto, none, required, by name                                         | M
C12 | Chat        | tool prompt and injection of the schemas                                     | M
C13 | Chat        | tool calls in a stream, their numbers                                        | M
C14 | Chat        | no_tool falls back to an answer in text                                      | M
C15 | Chat        | finish_reason and usage of tool calls are right                              | O
C16 | Chat        | image_url                                                                    | M
C17 | Chat        | tools and response_format exclude each other                                 | M
P1  | Completions | several prompts, the limit of their number                                   | M
P2  | Completions | shape of the stream, interleaved prompts                                     | M
P3  | Completions | suffix is refused, headers are summed                                        | M
P4  | Completions | n, echo, logprobs, stream_options                                            | O
M1  | Metrics     | every tgi_* metric, its labels and buckets                                   | M
M2  | Metrics     | --prometheus-port works                                                      | O
T1  | Tracing     | OTLP over gRPC, names of spans, traceparent                                  | S
L1  | Logs        | LOG_LEVEL, --json-output, "Connected"                                        | M
F1  | Launcher    | every flag and variable, with TGI's defaults                                 | M
F2  | Launcher    | rules of the number of shards                                                | M
F3  | Launcher    | limits of lengths and batches by themselves                                  | M
F4  | Launcher    | ATTENTION, PREFIX_CACHING, CUDA_GRAPHS, PREFILL_CHUNKING                     | M
F5  | Launcher    | messages of wrong arguments, exit codes 0, 1, 2                              | M
F6  | Launcher    | HF_TOKEN and the hub's other variables                                       | M
F7  | Launcher    | download: PEFT merge, parent model, bin to safetensors                       | M
F8  | Launcher    | the port is closed until all is ready; a dead child is an exit code          | M
F9  | Launcher    | graceful termination's timeout                                               | M
F10 | Launcher    | --env                                                                        | S
F11 | Launcher    | SageMaker's variables, port 8080                                             | M
F12 | Launcher    | defaults of the container: PORT=80, HF_HOME=/data                            | S
F13 | Launcher    | --usage-stats is taken, nothing is sent                                      | M
Q1  | Scheduling  | 429 over max_concurrent_requests, at once                                    | M
Q2  | Scheduling  | continuous batching in order, within the budgets                             | M
Q3  | Scheduling  | chunked prefill beside decodes                                               | M
Q4  | Scheduling  | waiting_served_ratio and max_waiting_tokens without chunking                 | S
Q5  | Scheduling  | paged memory and prefix cache                                                | M
Q6  | Scheduling  | generated tokens are cached too                                              | O
Q7  | Scheduling  | a bad request hurts nobody else                                              | O
S1  | Sampling    | order and formulas of the processors                                         | M
S2  | Sampling    | what is greedy and what is sampled                                           | M
S3  | Sampling    | a seed gives the same text in any batch                                      | M
S4  | Sampling    | logprobs after processing, ties of top tokens                                | M
S5  | Sampling    | order of length, end token and stop strings                                  | M
S6  | Sampling    | watermark                                                                    | S
S7  | Sampling    | n-gram speculation                                                           | M
S8  | Sampling    | medusa, mlp_speculator                                                       | S
S9  | Sampling    | grammars: regex and JSON schema, the end only where it may be                | M
S10 | Sampling    | grammars with speculation                                                    | O
D1  | Models      | causal families (baichuan by the code that it brings)                        | M
D2  | Models      | encoder-decoder families                                                     | M
D3  | Models      | bloom, mpt, opt, galactica (mamba is refused in words)                       | S
D4  | Models      | any other model of transformers, trust_remote_code                           | M
D5  | Models      | vision models                                                                | S
D6  | Models      | tensor parallel                                                              | S
D7  | Models      | rules of the dtype, sliding window                                           | M
D8  | Models      | CPU is first-class                                                           | O
K1  | Quantized   | gptq, awq, fp8, compressed-tensors, found by themselves                      | M
K2  | Quantized   | bitsandbytes, eetq on load                                                   | S
K3  | Quantized   | exl2, marlin, marlin_24                                                      | S
K4  | Quantized   | kv_cache_dtype fp8                                                           | S
K5  | Quantized   | messages of what does not go together                                        | S
A1  | LoRA        | --lora-adapters, adapter_id, model                                           | M
A2  | LoRA        | mixed adapters in a batch                                                    | M
A3  | LoRA        | prefix cache by adapter, loading at run time                                 | O
X1  | RoPE        | --rope-scaling, --rope-factor, kinds in config.json                          | M
B1  | Commands    | text-generation-server                                                       | S
B2  | Commands    | text-generation-router, print-schema                                         | S
B3  | Commands    | text-generation-benchmark and its tables                                     | S
Y1  | Clients     | text_generation                                                              | M
Y2  | Clients     | huggingface_hub                                                              | M
Y3  | Clients     | openai                                                                       | M
Y4  | Clients     | shapes of the replies that TGI's own tests record                            | S
"""

_TAKEN_UP = {"C3", "C15", "D8", "M2", "P4", "Q6", "Q7", "S10", "V9"}
"""Optional rows that are required here."""

_IMAGES = "comes with vision models"
_QUANTIZED = "comes with quantized checkpoints"
_ADAPTERS = "comes with LoRA"
_LEFT_OUT = {
    "C16": _IMAGES,
    "D5": _IMAGES,
    "D6": "comes with several devices",
    **dict.fromkeys(("K1", "K2", "K3", "K4", "K5"), _QUANTIZED),
    **dict.fromkeys(("A1", "A2", "A3"), _ADAPTERS),
}

_ROW_TEST = re.compile(r"test((?:_[A-Z]\d+)+)(?:_|$)")


@dataclass(frozen=True, slots=True)
class Row:
    """A feature; ``priority`` is M (must), S (should) or O (optional)."""

    id: str
    group: str
    feature: str
    priority: str

    @property
    def left_out(self) -> str:
        """Why it is not there yet; empty if it has to be."""
        return _LEFT_OUT.get(self.id, "")

    @property
    def is_required(self) -> bool:
        return not self.left_out and (self.priority in "MS" or self.id in _TAKEN_UP)


def row_ids(test_name: str) -> list[str]:
    """The rows that a test shows: ``test_V1_V3_messages`` → V1, V3."""
    match = _ROW_TEST.match(test_name)
    return match[1].split("_")[1:] if match else []


def row_tests(folder: Path) -> Iterator[tuple[str, str]]:
    """(row, ``file::test``) of every test under ``folder`` that carries a row's id."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from ((row, f"{path.relative_to(folder)}::{node.name}") for row in row_ids(node.name))


ROWS = tuple(Row(*(field.strip() for field in line.split("|"))) for line in _TABLE.strip().splitlines())
