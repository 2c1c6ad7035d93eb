"""The options of the commands: one field = one flag = one environment variable. The only reader of ``os.environ``.

Names, defaults and messages are TGI's where TGI has the option. An option whose feature is not in this version is
refused, never ignored; one that cannot change what Segue answers is accepted, and its help text says why.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segue.core.errors import ConfigError
from segue.core.options import OptionError, option, parse_size, resolve_options

__all__ = [
    "ConnectConfig",
    "OptionError",
    "ServeConfig",
    "cache_folder",
    "environment",
    "extend_environment",
    "resolve",
    "resolve_connect",
]

DEFAULT_MODEL = "bigscience/bloom-560m"
"""Of ``text-generation-launcher`` without ``--model-id``."""

DEFAULT_SPECULATE = 4
"""With a speculative model."""

_POSITIVE: tuple[str, ...] = (
    "validation_workers",
    "api_processes",
    "max_batch_size",
    "max_concurrent_requests",
    "max_connections",
    "client_timeout",
    "max_best_of",
    "max_client_batch_size",
    "max_input_tokens",
    "max_total_tokens",
    "max_batch_prefill_tokens",
    "num_threads",
    "block_size",
)
_NOT_NEGATIVE: tuple[str, ...] = (
    "max_stop_sequences",
    "max_top_n_tokens",
    "payload_limit",
    "graceful_termination_timeout",
    "engine_timeout",
    "waiting_served_ratio",
    "max_waiting_tokens",
)

_QUANTIZE = (
    "int8",
    "int4",
    "awq",
    "compressed-tensors",
    "eetq",
    "exl2",
    "gptq",
    "marlin",
    "bitsandbytes",
    "bitsandbytes-nf4",
    "bitsandbytes-fp4",
    "fp8",
)
_QUANTIZE_LATER = frozenset({"exl2", "marlin", "fp8"})
_KV_CACHE_DTYPES_LATER = ("fp8_e4m3fn", "fp8_e5m2")

_model = functools.partial(option, group="Model")
_limit = functools.partial(option, group="Limits of a request")
_batch = functools.partial(option, group="Batching")
_device = functools.partial(option, group="Device and memory")
_http = functools.partial(option, group="HTTP")
_hub = functools.partial(option, group="Hugging Face Hub")
_log = functools.partial(option, group="Logs and observability")
_later = functools.partial(option, group="Not in this version: refused unless at their defaults")
_compat = functools.partial(option, group="Accepted for TGI's sake: no effect on what Segue answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """How to serve one model. Made by :func:`resolve`, which also checks it; None means "find out"."""

    model_id: str = _model(
        DEFAULT_MODEL,
        "The model: a folder in Hugging Face layout, a Hub id, or one of the models that ship with Segue "
        "(sample-chat, sample-t5).",
    )
    revision: str | None = _model(None, "Commit, branch or refs/pr/N of a model on the Hub.")
    dtype: str | None = _model(
        None,
        "Type of the weights. Default: float32 on CPU, the checkpoint's own on a GPU.",
        choices=("float32", "float16", "bfloat16"),
    )
    quantize: str | None = _model(
        None,
        "Run weights in few bits. int8, int4, eetq and bitsandbytes… round a float checkpoint's when it loads; gptq, "
        "awq and compressed-tensors name what a quantized checkpoint is, which is found out without this too.",
        choices=_QUANTIZE,
    )
    int8_activations: bool | None = _model(
        None,
        "Round what quantized weights are multiplied with to int8, too (faster), or not (exact). Default: as the "
        "checkpoint says; int8 and int4 round, the others do not.",
        metavar="BOOL",
    )
    trust_remote_code: bool = _model(False, "Allow code that comes with the checkpoint to run.")
    tokenizer_config_path: str | None = _model(
        None, "A tokenizer_config.json to use instead of the model's (for its chat template)."
    )
    rope_scaling: str | None = _model(
        None, "Override the model's rope scaling; alone it scales by 1.", choices=("linear", "dynamic")
    )
    rope_factor: float | None = _model(None, "Override the factor of rope scaling; alone it means linear scaling.")

    max_input_tokens: int | None = _limit(None, "Most tokens of a prompt. Default: max-total-tokens - 1.", metavar="N")
    max_input_length: int | None = _limit(None, "Old name of max-input-tokens.", metavar="N")
    max_total_tokens: int | None = _limit(
        None,
        "Most tokens of prompt and generation together. Default: what the model and the memory allow, 4096 for a "
        "model without a limit of its own.",
        metavar="N",
    )
    max_concurrent_requests: int = _limit(128, "More requests at a time are answered with status 429.", metavar="N")
    max_best_of: int = _limit(2, "Highest best_of that a request may ask for.", metavar="N")
    max_stop_sequences: int = _limit(4, "Most stop sequences of a request.", metavar="N")
    max_top_n_tokens: int = _limit(5, "Highest top_n_tokens that a request may ask for.", metavar="N")
    max_client_batch_size: int = _limit(4, "Most prompts of one /v1/completions request.", metavar="N")
    max_image_fetch_size: int = _limit(1073741824, "Most bytes of an image given by its address.", metavar="BYTES")
    payload_limit: int = _limit(2000000, "Most bytes of a request's body.", metavar="BYTES")
    enable_prefill_logprobs: bool = _limit(
        False, "Allow decoder_input_details: the log probabilities of the prompt's tokens."
    )
    disable_grammar_support: bool = _limit(False, "Refuse requests that constrain the output by a grammar.")
    watermark_gamma: float | None = _limit(None, "Watermark: share of the vocabulary that is favoured. Default: 0.5.")
    watermark_delta: float | None = _limit(None, "Watermark: how much is added to favoured logits. Default: 2.0.")

    max_batch_prefill_tokens: int | None = _batch(
        None,
        "Most prompt tokens that one step of the engine runs. Default: 4096 on a GPU, 1024 on CPU, at most what "
        "the model allows.",
        metavar="N",
    )
    max_batch_total_tokens: int | None = _batch(
        None, "Tokens that the KV cache holds, over all requests. Default: from the memory.", metavar="N"
    )
    max_batch_size: int | None = _batch(None, "Most sequences that run together. Default: 256.", metavar="N")
    prefix_caching: bool = _batch(
        True, "Keep the KV of past prompts and answers for requests that begin alike.", metavar="BOOL"
    )
    prefill_chunking: bool = _batch(
        True,
        "Read long prompts in chunks beside running requests. false: as TGI without chunking, a step reads whole "
        "prompts or generates, and the next two options say when.",
        metavar="BOOL",
    )
    waiting_served_ratio: float = _batch(
        0.3,
        "Without prefill-chunking: generation pauses for new prompts when so many wait for each running request.",
        metavar="F",
    )
    max_waiting_tokens: int = _batch(
        20, "Without prefill-chunking: steps of generation after which new prompts are let in anyway.", metavar="N"
    )
    block_size: int = _batch(16, "Tokens in one block of the KV cache.", metavar="N")
    speculate: int | None = _batch(
        None,
        "Guess up to so many tokens of a sequence in a step, from its own past or by speculative-model. The answers "
        "stay the same; those that repeat something come faster. Default: 4 with speculative-model, all heads of a "
        "Medusa model or MLP speculator, else 0.",
        metavar="N",
    )
    speculative_model: str | None = _batch(
        None,
        "What guesses for the model: a small one with the same vocabulary, or Medusa or MLP speculator heads for it. "
        "A folder or a Hub id.",
        metavar="MODEL",
    )

    device: str = _device("auto", "auto (a GPU where there is one), cpu, cuda or cuda:N.")
    num_threads: int | None = _device(
        None, "CPU threads of the model. Default: one a core.", env=("NUM_THREADS", "OMP_NUM_THREADS"), metavar="N"
    )
    kv_cache_memory: int | None = _device(
        None,
        "Memory of the KV cache, e.g. 512M or 4GiB. Default: a share of the free memory.",
        parser=parse_size,
        metavar="SIZE",
    )
    kv_cache_dtype: str | None = _device(
        None,
        "What keys and values are stored in, on CPU: smaller ones hold more tokens in the same memory and are read "
        "faster, and the answers change within their rounding. auto (default): the dtype that the model computes in; "
        "with quantized weights and without --dtype, the checkpoint's own 16 bits. TGI's fp8 names are not in this "
        "version.",
        choices=("auto", "float32", "bfloat16", "float16", "int8", *_KV_CACHE_DTYPES_LATER),
    )
    cuda_memory_fraction: float = _device(1.0, "Share of the GPU's memory that Segue may use.", metavar="F")
    tgi_wiggle_room: float = _device(
        0.9, "Share of the GPU's remaining memory that the KV cache may take.", metavar="F"
    )
    disable_weight_cache: bool = _device(
        False,
        "Do not keep packed weights on disk ($XDG_CACHE_HOME/segue/weights) for the next start. They take at most a "
        "tenth of the free disk.",
    )
    shard_uds_path: str = _device(
        "/tmp/text-generation-server",  # noqa: S108
        "Prefix of the engine's socket, for text-generation-benchmark and text-generation-router; where another "
        "server has it, a private one is used.",
        metavar="PATH",
    )
    compute_type: str | None = _device(None, "Value of the x-compute-type response header. Default: the device's name.")

    hostname: str = _http("0.0.0.0", "Address to listen on.")  # noqa: S104
    port: int = _http(3000, "Port to listen on.", short="-p")
    prometheus_port: int = _http(9000, "Port that serves /metrics alone; one that is taken is left out with a warning.")
    api_key: tuple[str, ...] = _http(
        (),
        "Ask callers for `Authorization: Bearer KEY`; may be repeated or hold several, separated by commas.",
        secret=True,
        metavar="KEY",
    )
    cors_allow_origin: tuple[str, ...] = _http(
        (), "Origin that browsers may call from; may be repeated. Default: any.", metavar="ORIGIN"
    )
    aip_predict_route: str | None = _http(None, "Vertex AI: path that answers as /vertex.", flag=False, metavar="PATH")
    aip_health_route: str | None = _http(None, "Vertex AI: path that answers as /health.", flag=False, metavar="PATH")
    aip_http_port: str | None = _http(
        None, "Vertex AI: port to listen on, before any other; one that is no number is left out.", flag=False
    )
    openai_dialect: str = _http(
        "mixed",
        "Where OpenAI and TGI differ on OpenAI's routes. tgi: as TGI to the letter. openai: OpenAI's finish reasons "
        "and errors. mixed: OpenAI's presence_penalty, ids and error objects with TGI's finish reasons.",
        choices=("mixed", "tgi", "openai"),
    )
    validation_workers: int = _http(2, "Threads that tokenize.", metavar="N")
    api_processes: int = _http(
        1,
        "Processes that speak HTTP, on one port, for one engine. More than one helps where many streams run on a "
        "machine with cores to spare.",
        metavar="N",
    )
    max_connections: int | None = _http(
        None,
        "Most connections at a time; one more is answered with status 503 and closed. Default: what the limit of "
        "open files allows.",
        metavar="N",
    )
    client_timeout: int = _http(
        60,
        "Seconds that a client may take for a request's line and headers, or leave its answer unread, before its "
        "connection is closed.",
        metavar="SECONDS",
    )
    engine_timeout: int = _http(
        300,
        "Seconds without a sign of life after which an engine process that runs but hangs is ended and started "
        "again; more than the longest step takes. 0: never.",
        metavar="SECONDS",
    )
    graceful_termination_timeout: int = _http(
        90, "Seconds that running requests get to end after SIGTERM.", short="-g", metavar="SECONDS"
    )

    huggingface_hub_cache: str | None = _hub(
        None, "Folder for downloads. Default: as huggingface_hub has it (HF_HOME).", metavar="FOLDER"
    )
    weights_cache_override: str | None = _hub(
        None, "Folder that already holds all of the model's files, flat.", metavar="FOLDER"
    )
    hf_hub_offline: bool = _hub(False, "Use what is in the cache, never the network.")
    hf_endpoint: str | None = _hub(None, "Address of the Hub or of a mirror.", metavar="URL")
    hf_token: str | None = _hub(
        None,
        "Token for gated and private models.",
        env=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN"),
        flag=False,
        secret=True,
    )

    log_level: str = _log(
        "info", "error, warn, info, debug or trace; a filter like segue=debug,uvicorn=warn also works."
    )
    json_output: bool = _log(False, "Write logs as JSON lines.")
    env: bool = _log(False, "Print the runtime environment (for bug reports), then go on.", env=(), short="-e")
    otlp_endpoint: str | None = _log(
        None, "OTLP collector that gets the requests' traces over gRPC, e.g. http://localhost:4317.", metavar="URL"
    )
    otlp_service_name: str = _log(
        "text-generation-inference.router", "Service name of exported traces.", metavar="NAME"
    )

    sharded: bool | None = _later(None, "Split the model over several GPUs (true or false).", metavar="BOOL")
    num_shard: int | None = _later(None, "GPUs to split the model over.", metavar="N")
    lora_adapters: tuple[str, ...] = _later((), "LoRA adapters to load.", metavar="ID")
    ngrok: bool = _later(False, "Serve through an ngrok tunnel.")
    ngrok_authtoken: str | None = _later(None, "ngrok's token.", secret=True)
    ngrok_edge: str | None = _later(None, "ngrok's edge.")

    attention: str | None = _compat(
        None,
        "TGI's attention backend. Segue has one attention operator for all of them.",
        choices=("flashinfer", "flashdecoding", "paged", "flashdecoding-ipex"),
    )
    use_flash_attention: bool = _compat(
        True, "TGI's switch to transformers' code. Segue runs its own, which gives the same tokens.", metavar="BOOL"
    )
    cuda_graphs: tuple[int, ...] = _compat(
        (1, 2, 4, 8, 16, 32),
        "Batch sizes that TGI captures as CUDA graphs. This version runs every size without.",
        metavar="N",
    )
    disable_custom_kernels: bool = _compat(
        False, "TGI's switch for its BLOOM and NeoX kernels, which Segue does not have."
    )
    master_addr: str = _compat(
        "localhost", "Where the processes of a split model meet; one process needs none.", metavar="ADDR"
    )
    master_port: int = _compat(29500, "Port to master-addr.", metavar="PORT")
    usage_stats: str = _compat(
        "on", "TGI's telemetry. Segue sends nothing anywhere.", choices=("on", "off", "no-stack")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectConfig:
    """How ``segue chat`` and ``segue generate`` reach a running server."""

    url: str = option("http://127.0.0.1:3000", "Address of the server.", group="Server", env="SEGUE_URL")
    api_key: str | None = option(
        None,
        "Key that the server asks for.",
        group="Server",
        env=("SEGUE_API_KEY", "API_KEY"),
        secret=True,
        metavar="KEY",
    )
    timeout: float = option(
        120.0,
        "Seconds to wait for the next piece of an answer.",
        group="Server",
        env="SEGUE_TIMEOUT",
        metavar="SECONDS",
    )


def environment() -> dict[str, str]:
    """A copy of this process's environment."""
    return dict(os.environ)


def extend_environment(variables: Mapping[str, str]) -> None:
    """Set variables of this process, for libraries that read them when they are loaded."""
    os.environ.update(variables)


def cache_folder() -> Path:
    """Where Segue keeps what it can make again: ``$XDG_CACHE_HOME/segue``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "segue"


def resolve(
    given: Mapping[str, Any], environ: Mapping[str, str] | None = None, *, default_model: str = DEFAULT_MODEL
) -> ServeConfig:
    """Flag, then environment, then default; checked.

    Args:
        given: Parsed flags by field name; absent means not given.
        environ: Default: this process's environment.

    Raises:
        OptionError: a value cannot be read, or an option does not exist.
        ConfigError: the options contradict each other, or need a feature that is not in this version.
    """
    environ = os.environ if environ is None else environ
    config = resolve_options(ServeConfig, given, environ, {"model_id": default_model})
    if config.max_input_length is not None:
        if config.max_input_tokens is not None:
            raise ConfigError("Both `max_input_tokens` and `max_input_length` are set. Please define only one of them.")
        config = dataclasses.replace(config, max_input_tokens=config.max_input_length, max_input_length=None)
    if config.aip_http_port is not None and config.aip_http_port.isdecimal():
        config = dataclasses.replace(config, port=int(config.aip_http_port))
    config = _with_speculation(config)
    _check_routes(config)
    _check_addresses(config)
    _refuse_what_comes_later(config)
    _check_numbers(config)
    _check_lengths(config)
    return config


def resolve_connect(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> ConnectConfig:
    """As :func:`resolve`, for the commands that talk to a server."""
    return resolve_options(ConnectConfig, given, os.environ if environ is None else environ, {})


def _refuse_what_comes_later(config: ServeConfig) -> None:
    if config.num_shard is not None and config.num_shard < 1:
        raise ConfigError("`num_shard` cannot be < 1")
    if config.sharded and config.num_shard is not None and config.num_shard <= 1:
        raise ConfigError("`sharded` is true but `num_shard` <= 1")
    if config.quantize and config.dtype and not config.quantize.startswith("bitsandbytes"):
        raise ConfigError(
            "Only 1 can be set between `dtype` and `quantize`, as they both decide how goes the final model."
        )
    later = {
        f"--quantize {config.quantize}": config.quantize in _QUANTIZE_LATER,
        f"--kv-cache-dtype {config.kv_cache_dtype}": config.kv_cache_dtype in _KV_CACHE_DTYPES_LATER,
        "--lora-adapters": config.lora_adapters,
        "--ngrok": config.ngrok or config.ngrok_authtoken or config.ngrok_edge,
    }
    for name, is_set in later.items():
        if is_set:
            raise ConfigError(f"`{name}` is not in this version of Segue. Leave it out to serve without it.")


def _with_speculation(config: ServeConfig) -> ServeConfig:
    if config.speculate is not None and config.speculate < 0:
        raise ConfigError("`speculate` must be >= 0")
    if config.speculative_model is None:
        return config
    if config.speculate == 0:
        raise ConfigError("`speculative_model` needs `speculate` > 0")
    return dataclasses.replace(config, speculate=config.speculate or DEFAULT_SPECULATE)


def _check_routes(config: ServeConfig) -> None:
    for name in ("aip_predict_route", "aip_health_route"):
        path = getattr(config, name)
        if path is not None and (not path.startswith("/") or "{" in path):
            raise ConfigError(f"`{name}` must be a path that begins with `/`")


def _check_addresses(config: ServeConfig) -> None:
    endpoint = config.otlp_endpoint
    if endpoint is not None and not (endpoint.startswith(("http://", "https://")) and urlsplit(endpoint).hostname):
        raise ConfigError("`otlp_endpoint` must be an address such as http://localhost:4317")


def _check_numbers(config: ServeConfig) -> None:
    for name in _POSITIVE:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"`{name}` must be > 0")
    for name in _NOT_NEGATIVE:
        if getattr(config, name) < 0:
            raise ConfigError(f"`{name}` must be >= 0")
    for name in ("cuda_memory_fraction", "tgi_wiggle_room"):
        if not 0 < getattr(config, name) <= 1:
            raise ConfigError(f"`{name}` must be > 0 and <= 1")
    for name in ("port", "prometheus_port", "master_port"):
        if not 0 <= getattr(config, name) <= 65535:
            raise ConfigError(f"`{name}` must be a port number")


def _check_lengths(config: ServeConfig) -> None:
    """TGI's rules between the limits; those of limits that are found out later are checked when they are known."""
    a, b = config.max_input_tokens, config.max_total_tokens
    prefill, batch = config.max_batch_prefill_tokens, config.max_batch_total_tokens
    if a is not None and b is not None and a >= b:
        raise ConfigError(f"`max_input_tokens`({a}) must be < `max_total_tokens`({b})")
    if prefill is not None and batch is not None and prefill > batch:
        raise ConfigError(
            f"`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: {prefill} and {batch}"
        )
    if not config.prefill_chunking and prefill is not None and a is not None and prefill < a:
        raise ConfigError(f"`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: {prefill} and {a}")
    if b is not None and batch is not None and b > batch:
        raise ConfigError(f"`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {b} and {batch}")
