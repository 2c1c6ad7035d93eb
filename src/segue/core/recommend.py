"""Which machine and which limits a model wants: the answers of Hugging Face's recommender for TGI, without its server.

Two ways to estimate. ``compat`` is the formula of the recommender's last public source with what its published answer
for google/gemma-7b-it shows to have changed since; ``exact`` plans the memory from the model's own sizes
(``memory_plan``), in units of 10**9 bytes, as GPUs are sold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from segue.core.errors import ConfigError, SegueError, UnsupportedModelError
from segue.core.memory_plan import USABLE_SHARE, MemoryPlan, ModelDescription, plan_memory, read_shape

__all__ = [
    "INSTANCES",
    "DoesNotFitError",
    "Instance",
    "Mode",
    "Recommendation",
    "UnknownProviderError",
    "recommend",
    "recommend_response",
]

Mode = Literal["compat", "exact"]
GB = 1_000_000_000
DEFAULT_GPU_MEMORY = 999.0
PREFILL_TOKENS = 4096
MIN_PREFILL_TOKENS = 512
MIN_TOTAL_TOKENS = 1024
MAX_TOTAL_TOKENS_WITHOUT_LIMIT = 4096


class DoesNotFitError(SegueError):
    """No machine, or not the given GPUs, can serve the model; the text says what would."""


class UnknownProviderError(SegueError):
    """There is no list of this provider's machines."""


@dataclass(frozen=True, slots=True)
class Instance:
    name: str
    memory: float
    """GB of all its GPUs."""
    num_gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    model_id: str
    instance: str | None
    """None: no provider was asked for."""
    max_batch_prefill_tokens: int
    max_input_length: int
    max_total_tokens: int
    num_shard: int
    quantize: str | None
    estimated_memory_in_gigabytes: float
    """``exact``: with a KV cache for one request of the full length."""
    max_batch_total_tokens: int | None = None
    """Tokens that the KV cache then holds; ``compat`` does not know."""
    breakdown: Mapping[str, float] = field(default_factory=dict)
    """GB on each GPU; empty in ``compat``."""

    def as_wire(self) -> dict[str, Any]:
        """The answer of Hugging Face's route."""
        return {
            "model_id": self.model_id,
            "instance": self.instance,
            "configuration": {
                "model_id": self.model_id,
                "max_batch_prefill_tokens": self.max_batch_prefill_tokens,
                "max_input_length": self.max_input_length,
                "max_total_tokens": self.max_total_tokens,
                "num_shard": self.num_shard,
                "quantize": self.quantize,
                "estimated_memory_in_gigabytes": self.estimated_memory_in_gigabytes,
            },
        }

    def to_env(self) -> dict[str, str]:
        """For the launcher, in a container or not."""
        values = {
            "MODEL_ID": self.model_id,
            "NUM_SHARD": self.num_shard,
            "MAX_INPUT_TOKENS": self.max_input_length,
            "MAX_TOTAL_TOKENS": self.max_total_tokens,
            "MAX_BATCH_PREFILL_TOKENS": self.max_batch_prefill_tokens,
            "QUANTIZE": self.quantize,
        }
        return {name: str(value) for name, value in values.items() if value is not None}


def _instances(*rows: tuple[str, float, int]) -> tuple[Instance, ...]:
    return tuple(Instance(*row) for row in rows)


INSTANCES: Mapping[str, tuple[Instance, ...]] = {
    "gcp": _instances(
        ("g2-standard-4", 24, 1),
        ("g2-standard-24", 48, 2),
        ("a2-ultragpu-1g", 80, 1),
        ("a2-ultragpu-2g", 160, 2),
        ("a2-ultragpu-4g", 320, 4),
        ("a2-ultragpu-8g", 640, 8),
        ("a3-highgpu-8g", 640, 8),
        ("g2-standard-48", 96, 4),
        ("g2-standard-96", 192, 8),
        ("a2-highgpu-1g", 40, 1),
        ("a2-highgpu-2g", 80, 2),
        ("a2-highgpu-4g", 160, 4),
        ("a2-highgpu-8g", 320, 8),
    ),
    "aws": _instances(
        ("g5.2xlarge", 24, 1),
        ("g5.12xlarge", 96, 4),
        ("g5.48xlarge", 192, 8),
        ("p4d.24xlarge", 320, 8),
        ("p4de.24xlarge", 640, 8),
    ),
    "hf": _instances(
        ("aws-nvidia-a10g-x1", 24, 1),
        ("aws-nvidia-a100-x1", 80, 1),
        ("aws-nvidia-a100-x2", 160, 2),
        ("aws-nvidia-a100-x4", 320, 4),
        ("aws-nvidia-a100-x8", 640, 8),
    ),
}
"""In the order in which ``compat`` tries them."""


def recommend(
    description: ModelDescription,
    *,
    gpu_memory: float | None = None,
    num_gpus: int | None = None,
    provider: str | None = None,
    mode: Mode = "compat",
) -> Recommendation:
    """For GPUs that are there, or, with ``provider``, for the first of its machines that is large enough.

    Args:
        gpu_memory: GB of one GPU. With ``provider``: of one GPU at most; in ``compat`` of the whole machine at most,
            as the recommender has it.
        num_gpus: Default: one; in ``exact`` as few as are needed. With ``provider``: as many exactly; ``compat`` does
            not look at it, nor does the recommender.

    Raises:
        DoesNotFitError, UnknownProviderError
        UnsupportedModelError: too little is known of this kind of model.
        ConfigError: contradicting arguments.
    """
    if provider is not None and provider not in INSTANCES:
        raise UnknownProviderError(f"unknown provider '{provider}': {', '.join(INSTANCES)}")
    if provider is None and gpu_memory is None:
        raise ConfigError("either the memory of a GPU or a provider has to be given")
    if (gpu_memory is not None and gpu_memory <= 0) or (num_gpus is not None and num_gpus < 1):
        raise ConfigError("`gpu_memory` and `num_gpus` must be > 0")
    if mode == "exact":
        return _exact(description, gpu_memory, num_gpus, provider)
    if provider is None:
        assert gpu_memory is not None
        return _compat(description, memory=gpu_memory * (num_gpus or 1), num_gpus=num_gpus or 1, instance=None)
    limit = DEFAULT_GPU_MEMORY if gpu_memory is None else gpu_memory
    for instance in INSTANCES[provider]:
        if instance.memory <= limit:
            try:
                return _compat(description, memory=instance.memory, num_gpus=instance.num_gpus, instance=instance.name)
            except DoesNotFitError:
                continue
    raise DoesNotFitError("No recommendation found")


def recommend_response(
    provider: str, query: Mapping[str, str], find_model: Callable[[str], ModelDescription]
) -> tuple[int, dict[str, Any]]:
    """Status and body of ``GET /api/integrations/tgi/v1/provider/{provider}/recommend``.

    The query is the recommender's (``model_id``, ``gpu_memory``, ``num_gpus``), and ``mode=exact`` beside it. As there,
    a model that fits nowhere is answered with status 200 and an error in the body.

    Args:
        find_model: Raises SegueError for a model of which nothing is known.
    """
    if provider not in INSTANCES:
        return 422, {"error": f"unknown provider '{provider}': {', '.join(INSTANCES)}"}
    if not query.get("model_id"):
        return 200, {"error": "No modelid provided", "recommendation": []}
    try:
        found = recommend(
            find_model(query["model_id"]),
            gpu_memory=_number(query, "gpu_memory"),
            num_gpus=_whole(query, "num_gpus"),
            provider=provider,
            mode=_mode(query),
        )
    except DoesNotFitError:
        return 200, {"error": "No recommendation found"}
    except SegueError as error:
        return 400, {"error": str(error)}
    return 200, found.as_wire()


_COMPAT_TYPES = frozenset(
    {"bloom", "t5", "mt5", "gpt_neox", "gpt2", "llama", "gpt_bigcode", "RefinedWeb", "RefinedWebModel", "falcon"}
    | {"mpt", "idefics", "opt", "mistral", "mixtral", "gemma", "phi", "qwen2", "starcoder2"}
)
_COMPAT_LENGTHS = {
    "llama": 4096,
    "falcon": 2048,
    "gemma": 4096,
    "mistral": 4096,
    "mixtral": 32768,
    "gpt_bigcode": 8192,
    "starcoder2": 16384,
}
_COMPAT_LIMITS: tuple[tuple[int, int, int], ...] = (
    (800, 1024, 2048),
    (1024, 4096, 8192),
    (1024, 2048, 2048),
    (1512, 2048, 2048),
    (2048, 4096, 4096),
    (3072, 4096, 4096),
    (4000, 4096, 4096),  # not in the source: only this one gives the published answer for gemma-7b-it
    (3072, 4096, 6144),
    (2048, 4096, 8192),
    (3072, 4096, 8192),
    (3072, 4096, 16384),
    (4000, 4096, 32768),
    (4096, 8192, 8192),
    (4096, 8192, 16384),
    (8000, 8192, 32768),
    (8000, 16384, 16384),
    (8000, 16384, 32768),
)
"""(max_input, max_total, max_batch_prefill), tried from the last."""
_COMPAT_WARMUP_REQUESTS = 4
_COMPAT_GEMMA_FACTOR = 4
"""2 in the source; the published 22.77 GB come out with 4 only (1, 2, 3: 20.84, 21.49, 22.13)."""
_COMPAT_TOO_LONG = 100_000


def _compat(description: ModelDescription, *, memory: float, num_gpus: int, instance: str | None) -> Recommendation:
    config, model_type = description.config, str(description.config.get("model_type"))
    if model_type not in _COMPAT_TYPES:
        raise UnsupportedModelError(f"Unsupported model type {model_type}; mode=exact knows more of them")
    if int(config.get("max_position_embeddings") or 0) > _COMPAT_TOO_LONG:
        raise UnsupportedModelError(f"Models with more than {_COMPAT_TOO_LONG} positions are not supported")
    shape, quantize = read_shape(config), _quantize(description)
    parameters = description.parameters()
    weights = parameters * 0.75 if quantize else parameters * 2
    for max_input, max_total, prefill in reversed(_COMPAT_LIMITS):
        if max_total > _compat_length(description, model_type):
            continue
        extra = prefill**2 * shape.num_heads * 2
        extra += (max_total - max_input) * shape.hidden_size * shape.num_heads * _COMPAT_WARMUP_REQUESTS * 2
        extra *= _COMPAT_GEMMA_FACTOR if model_type == "gemma" else 1
        estimate = (weights + extra + num_gpus * GB) * 1.2 / 2**30
        if estimate < memory:
            return Recommendation(
                model_id=description.model_id,
                instance=instance,
                max_batch_prefill_tokens=prefill,
                max_input_length=max_input,
                max_total_tokens=max_total,
                num_shard=num_gpus,
                quantize=quantize,
                estimated_memory_in_gigabytes=round(estimate, 2),
            )
    raise DoesNotFitError("No recommendation found")


def _compat_length(description: ModelDescription, model_type: str) -> int:
    if description.model_max_length is not None and description.model_max_length < _COMPAT_TOO_LONG:
        return description.model_max_length
    return _COMPAT_LENGTHS.get(model_type, 2048)


def _exact(
    description: ModelDescription, gpu_memory: float | None, num_gpus: int | None, provider: str | None
) -> Recommendation:
    if provider is None:
        assert gpu_memory is not None
        machines = [Instance("", gpu_memory * count, count) for count in ((num_gpus,) if num_gpus else (1, 2, 4, 8))]
    else:
        machines = sorted(
            (
                machine
                for machine in INSTANCES[provider]
                if num_gpus in (None, machine.num_gpus)
                and (gpu_memory is None or machine.memory / machine.num_gpus <= gpu_memory)
            ),
            key=lambda machine: (machine.memory, machine.num_gpus),
        )
    reason = "no machine has such GPUs"
    for machine in machines:
        found = _exact_on(description, machine)
        if isinstance(found, Recommendation):
            return found
        reason = found
    raise DoesNotFitError(f"'{description.model_id}' does not fit: {reason}")


def _exact_on(description: ModelDescription, machine: Instance) -> Recommendation | str:
    """Or why not."""
    shape, num_gpus = read_shape(description.config), machine.num_gpus
    if shape.num_heads % num_gpus:
        return f"its {shape.num_heads} heads cannot be shared by {num_gpus} GPUs"
    length = _length(description, shape.max_positions)
    gpu_bytes = machine.memory / num_gpus * GB
    prefill = min(PREFILL_TOKENS, length)
    plan = plan_memory(description, gpu_bytes=gpu_bytes, num_gpus=num_gpus, prefill_tokens=prefill)
    fewest = min(length, MIN_TOTAL_TOKENS)
    while plan.kv_tokens < fewest and prefill > MIN_PREFILL_TOKENS:
        prefill //= 2
        plan = plan_memory(description, gpu_bytes=gpu_bytes, num_gpus=num_gpus, prefill_tokens=prefill)
    max_total = min(length, plan.kv_tokens)
    if max_total < fewest:
        needed_gb = _needed_bytes(plan, fewest) / GB
        gpus = "1 GPU" if num_gpus == 1 else f"{num_gpus} GPUs"
        return f"on {gpus} it needs {needed_gb:.1f} GB of each, and they have {gpu_bytes / GB:g}"
    return Recommendation(
        model_id=description.model_id,
        instance=machine.name or None,
        max_batch_prefill_tokens=prefill,
        max_input_length=max_total - 1,
        max_total_tokens=max_total,
        num_shard=num_gpus,
        quantize=_quantize(description),
        estimated_memory_in_gigabytes=round(_needed_bytes(plan, max_total) * num_gpus / GB, 2),
        max_batch_total_tokens=plan.kv_tokens,
        breakdown=_breakdown(plan, max_total),
    )


def _length(description: ModelDescription, max_positions: int | None) -> int:
    limits = [limit for limit in (max_positions, description.model_max_length) if limit is not None and limit < 10**9]
    return min(limits) if limits else MAX_TOTAL_TOKENS_WITHOUT_LIMIT


def _needed_bytes(plan: MemoryPlan, num_tokens: int) -> float:
    """Of one GPU, with a KV cache for ``num_tokens``."""
    return plan.weights + plan.runtime + (plan.activations + num_tokens * plan.kv_per_token) / USABLE_SHARE


def _breakdown(plan: MemoryPlan, max_total: int) -> dict[str, float]:
    values = {
        "weights": plan.weights,
        "kv_cache_of_one_request": plan.kv_per_token * max_total,
        "kv_cache": plan.kv_tokens * plan.kv_per_token,
        "activations": plan.activations,
        "runtime": plan.runtime,
    }
    return {name: round(value / GB, 3) for name, value in values.items()}


def _quantize(description: ModelDescription) -> str | None:
    quantization = description.config.get("quantization_config")
    if isinstance(quantization, Mapping) and quantization.get("quant_method"):
        return str(quantization["quant_method"])
    return next((method for method in ("gptq", "awq") if method in description.model_id.lower()), None)


def _number(query: Mapping[str, str], name: str) -> float | None:
    try:
        return float(query[name]) if query.get(name) else None
    except ValueError:
        raise ConfigError(f"`{name}` must be a number") from None


def _whole(query: Mapping[str, str], name: str) -> int | None:
    value = _number(query, name)
    if value is not None and value != int(value):
        raise ConfigError(f"`{name}` must be a whole number")
    return None if value is None else int(value)


def _mode(query: Mapping[str, str]) -> Mode:
    mode = query.get("mode") or "compat"
    if mode not in ("compat", "exact"):
        raise ConfigError("`mode` must be compat or exact")
    return "exact" if mode == "exact" else "compat"
