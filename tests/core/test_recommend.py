from typing import Any

import pytest

from segue.core.errors import ConfigError, UnsupportedModelError
from segue.core.memory_plan import ModelDescription
from segue.core.recommend import (
    INSTANCES,
    DoesNotFitError,
    UnknownProviderError,
    recommend,
    recommend_response,
)

GEMMA_CONFIG = {
    "model_type": "gemma",
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
# The tokenizer's length is the number that stands for "none": the published answer rests on the table's 4096.
GEMMA = ModelDescription(model_id="google/gemma-7b-it", config=GEMMA_CONFIG, model_max_length=10**30)
LLAMA_70B = ModelDescription(
    model_id="meta-llama/Meta-Llama-3-70B",
    config={
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    },
)


def _answer(query: dict[str, str], provider: str = "gcp") -> tuple[int, dict[str, Any]]:
    models = {GEMMA.model_id: GEMMA, LLAMA_70B.model_id: LLAMA_70B}

    def find(model_id: str) -> ModelDescription:
        if model_id not in models:
            raise ConfigError(f"'{model_id}' is not known")
        return models[model_id]

    return recommend_response(provider, query, find)


def test_published_answer() -> None:
    query = {"model_id": "google/gemma-7b-it", "gpu_memory": "24", "num_gpus": "1"}
    assert _answer(query) == (
        200,
        {
            "model_id": "google/gemma-7b-it",
            "instance": "g2-standard-4",
            "configuration": {
                "model_id": "google/gemma-7b-it",
                "max_batch_prefill_tokens": 4096,
                "max_input_length": 4000,
                "max_total_tokens": 4096,
                "num_shard": 1,
                "quantize": None,
                "estimated_memory_in_gigabytes": 22.77,
            },
        },
    )


@pytest.mark.parametrize(
    ("provider", "query", "status", "body"),
    [
        ("gcp", {}, 200, {"error": "No modelid provided", "recommendation": []}),
        ("gcp", {"model_id": GEMMA.model_id, "gpu_memory": "16"}, 200, {"error": "No recommendation found"}),
        ("gcp", {"model_id": GEMMA.model_id, "gpu_memory": "much"}, 400, {"error": "`gpu_memory` must be a number"}),
        ("gcp", {"model_id": "no/model"}, 400, {"error": "'no/model' is not known"}),
        ("azure", {"model_id": GEMMA.model_id}, 422, {"error": "unknown provider 'azure': gcp, aws, hf"}),
    ],
)
def test_wire_errors(provider: str, query: dict[str, str], status: int, body: dict[str, Any]) -> None:
    assert _answer(query, provider) == (status, body)


def test_first_machine_of_the_list_that_is_large_enough() -> None:
    answer = _answer({"model_id": LLAMA_70B.model_id})[1]
    assert answer["instance"] == "a2-ultragpu-4g"  # 141 GB · 1.2 is more than the 160 of the one before
    assert answer["configuration"]["num_shard"] == 4
    assert _answer({"model_id": GEMMA.model_id}, "hf")[1]["instance"] == "aws-nvidia-a10g-x1"
    assert _answer({"model_id": GEMMA.model_id}, "aws")[1]["instance"] == "g5.2xlarge"


def test_exact_over_the_wire() -> None:
    status, body = _answer({"model_id": GEMMA.model_id, "mode": "exact"})
    assert status == 200
    assert body["configuration"]["max_total_tokens"] == 8192
    assert _answer({"model_id": GEMMA.model_id, "mode": "best"})[0] == 400


def test_compat_without_provider() -> None:
    found = recommend(GEMMA, gpu_memory=24)
    assert (found.instance, found.estimated_memory_in_gigabytes) == (None, 22.77)
    two = recommend(GEMMA, gpu_memory=12, num_gpus=2)
    assert two.num_shard == 2
    assert two.estimated_memory_in_gigabytes == 23.89  # 1.2 GB more, for the second GPU's context
    with pytest.raises(DoesNotFitError):
        recommend(GEMMA, gpu_memory=12)


def test_compat_reads_quantization_from_config_or_name() -> None:
    by_config = ModelDescription(model_id="a/b", config=GEMMA_CONFIG | {"quantization_config": {"quant_method": "awq"}})
    by_name = ModelDescription(model_id="a/b-GPTQ", config=GEMMA_CONFIG)
    assert recommend(by_config, gpu_memory=24).quantize == "awq"
    assert recommend(by_name, gpu_memory=24).quantize == "gptq"
    assert recommend(by_name, gpu_memory=24).max_batch_prefill_tokens >= 4096


def test_compat_respects_the_tokenizers_length() -> None:
    short = ModelDescription(model_id="a/b", config=GEMMA_CONFIG, model_max_length=2048)
    assert recommend(short, gpu_memory=999).max_total_tokens <= 2048


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"model_type": "qwen3"}, "Unsupported model type qwen3"), ({"max_position_embeddings": 131072}, "100000")],
)
def test_compat_refuses_what_the_recommender_refused(changes: dict[str, Any], text: str) -> None:
    newer = ModelDescription(model_id="a/b", config=GEMMA_CONFIG | changes)
    with pytest.raises(UnsupportedModelError, match=text):
        recommend(newer, gpu_memory=80)
    assert recommend(newer, gpu_memory=80, mode="exact").max_total_tokens >= 8192


def test_exact_honours_num_gpus() -> None:
    one = recommend(GEMMA, gpu_memory=80, num_gpus=1, mode="exact")
    two = recommend(GEMMA, gpu_memory=80, num_gpus=2, mode="exact")
    assert (one.num_shard, two.num_shard) == (1, 2)
    assert two.breakdown["weights"] == pytest.approx(one.breakdown["weights"] / 2, abs=0.001)
    assert (two.max_batch_total_tokens or 0) > 2 * (one.max_batch_total_tokens or 0)


def test_exact_finds_the_fewest_gpus() -> None:
    assert recommend(LLAMA_70B, gpu_memory=80, mode="exact").num_shard == 2
    assert recommend(GEMMA, gpu_memory=80, mode="exact").num_shard == 1


def test_exact_on_a_providers_machines() -> None:
    assert recommend(GEMMA, provider="gcp", mode="exact").instance == "g2-standard-4"
    assert recommend(GEMMA, provider="gcp", num_gpus=4, mode="exact").instance == "g2-standard-48"
    assert recommend(LLAMA_70B, provider="gcp", gpu_memory=40, mode="exact").instance == "a2-highgpu-4g"
    with pytest.raises(DoesNotFitError, match="no machine has such GPUs"):
        recommend(GEMMA, provider="aws", gpu_memory=16, mode="exact")


def test_exact_says_what_would_fit() -> None:
    with pytest.raises(DoesNotFitError, match=r"on 1 GPU it needs 1\d\.\d GB of each, and they have 12"):
        recommend(GEMMA, gpu_memory=12, num_gpus=1, mode="exact")
    with pytest.raises(DoesNotFitError, match="16 heads cannot be shared by 3 GPUs"):
        recommend(GEMMA, gpu_memory=80, num_gpus=3, mode="exact")


def test_exact_estimate_is_within_the_memory_and_limits_fit_together() -> None:
    for gpu_memory in (20, 21, 24, 40, 80):
        found = recommend(GEMMA, gpu_memory=gpu_memory, mode="exact")
        assert found.estimated_memory_in_gigabytes <= gpu_memory * found.num_shard
        assert found.max_input_length < found.max_total_tokens <= (found.max_batch_total_tokens or 0)
        assert sum(found.breakdown[part] for part in ("weights", "kv_cache", "activations", "runtime")) <= gpu_memory


def test_exact_shortens_requests_before_it_gives_up() -> None:
    tight = recommend(GEMMA, gpu_memory=21, num_gpus=1, mode="exact")
    assert 1024 <= tight.max_total_tokens < 8192


def test_environment() -> None:
    assert recommend(GEMMA, gpu_memory=24, provider="gcp").to_env() == {
        "MODEL_ID": "google/gemma-7b-it",
        "NUM_SHARD": "1",
        "MAX_INPUT_TOKENS": "4000",
        "MAX_TOTAL_TOKENS": "4096",
        "MAX_BATCH_PREFILL_TOKENS": "4096",
    }


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ConfigError),
        ({"gpu_memory": 0}, ConfigError),
        ({"gpu_memory": 24, "num_gpus": 0}, ConfigError),
        ({"provider": "azure"}, UnknownProviderError),
    ],
)
def test_contradicting_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        recommend(GEMMA, **arguments)


def test_machines_have_equal_gpus() -> None:
    for machines in INSTANCES.values():
        assert all(machine.memory / machine.num_gpus in (24, 40, 80) for machine in machines)
