"""``ServeConfig`` is TGI's launcher, flag by flag; what this version cannot do is refused."""

import os

import pytest

from segue.core.config import OptionError, ServeConfig, resolve, resolve_connect
from segue.core.errors import ConfigError
from segue.core.options import option_table

TGI_LAUNCHER = {
    "model_id": "bigscience/bloom-560m",
    "revision": None,
    "validation_workers": 2,
    "sharded": None,
    "num_shard": None,
    "quantize": None,
    "speculate": None,
    "dtype": None,
    "kv_cache_dtype": None,
    "trust_remote_code": False,
    "max_concurrent_requests": 128,
    "max_best_of": 2,
    "max_stop_sequences": 4,
    "max_top_n_tokens": 5,
    "max_input_tokens": None,
    "max_input_length": None,
    "max_total_tokens": None,
    "waiting_served_ratio": 0.3,
    "max_batch_prefill_tokens": None,
    "max_batch_total_tokens": None,
    "max_waiting_tokens": 20,
    "max_batch_size": None,
    "cuda_graphs": (1, 2, 4, 8, 16, 32),
    "hostname": "0.0.0.0",
    "port": 3000,
    "prometheus_port": 9000,
    "shard_uds_path": "/tmp/text-generation-server",
    "master_addr": "localhost",
    "master_port": 29500,
    "huggingface_hub_cache": None,
    "weights_cache_override": None,
    "disable_custom_kernels": False,
    "cuda_memory_fraction": 1.0,
    "rope_scaling": None,
    "rope_factor": None,
    "json_output": False,
    "otlp_endpoint": None,
    "otlp_service_name": "text-generation-inference.router",
    "cors_allow_origin": (),
    "api_key": (),
    "watermark_gamma": None,
    "watermark_delta": None,
    "ngrok": False,
    "ngrok_authtoken": None,
    "ngrok_edge": None,
    "tokenizer_config_path": None,
    "disable_grammar_support": False,
    "env": False,
    "max_client_batch_size": 4,
    "lora_adapters": (),
    "usage_stats": "on",
    "payload_limit": 2000000,
    "enable_prefill_logprobs": False,
    "graceful_termination_timeout": 90,
    "max_image_fetch_size": 1073741824,
}


@pytest.mark.parametrize("name", TGI_LAUNCHER)
def test_F1_names_and_defaults_are_those_of_tgi(name: str) -> None:
    entry = next(entry for entry in option_table(ServeConfig) if entry.name == name)
    assert entry.default == TGI_LAUNCHER[name]
    assert entry.flag == "--" + name.replace("_", "-")
    assert entry.env == (() if name == "env" else (name.upper(),))


def test_every_option_has_a_help_text_and_its_own_names() -> None:
    table = option_table(ServeConfig)
    assert all(entry.help and entry.group for entry in table)
    variables = [name for entry in table for name in entry.env]
    assert len(variables) == len(set(variables))


def test_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PORT", "80")
    assert resolve({}).port == 80
    assert resolve({}, {}).port == 3000


def test_F6_tokens_of_the_hub_by_tgis_precedence() -> None:
    assert resolve({}, {"HF_API_TOKEN": "c"}).hf_token == "c"
    assert resolve({}, {"HF_API_TOKEN": "c", "HUGGING_FACE_HUB_TOKEN": "b", "HF_TOKEN": "a"}).hf_token == "a"


def test_F1_F5_old_name_of_max_input_tokens() -> None:
    assert resolve({"max_input_length": 7}, {}).max_input_tokens == 7
    with pytest.raises(ConfigError, match="Both `max_input_tokens` and `max_input_length` are set"):
        resolve({"max_input_length": 7, "max_input_tokens": 7}, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_input_tokens": 10, "max_total_tokens": 10}, "`max_input_tokens`(10) must be < `max_total_tokens`(10)"),
        ({"validation_workers": 0}, "`validation_workers` must be > 0"),
        ({"max_batch_size": 0}, "`max_batch_size` must be > 0"),
        ({"num_shard": 0}, "`num_shard` cannot be < 1"),
        ({"sharded": True, "num_shard": 1}, "`sharded` is true but `num_shard` <= 1"),
        (
            {"max_batch_prefill_tokens": 9, "max_batch_total_tokens": 8},
            "`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: 9 and 8",
        ),
        (
            {"max_total_tokens": 9, "max_batch_total_tokens": 8},
            "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 9 and 8",
        ),
        (
            {"dtype": "float16", "quantize": "gptq"},
            "Only 1 can be set between `dtype` and `quantize`, as they both decide how goes the final model.",
        ),
        (
            {"max_batch_prefill_tokens": 9, "max_input_tokens": 10, "prefill_chunking": False},
            "`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: 9 and 10",
        ),
        ({"waiting_served_ratio": -0.1}, "`waiting_served_ratio` must be >= 0"),
        ({"tgi_wiggle_room": 1.5}, "`tgi_wiggle_room` must be > 0 and <= 1"),
        ({"payload_limit": -1}, "`payload_limit` must be >= 0"),
    ],
)
def test_F5_options_that_contradict_each_other(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(given, {})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"QUANTIZE": "exl2"}, "--quantize exl2"),
        ({"KV_CACHE_DTYPE": "fp8_e5m2"}, "--kv-cache-dtype fp8_e5m2"),
        ({"LORA_ADAPTERS": "a,b"}, "--lora-adapters"),
        ({"NGROK": "true"}, "--ngrok"),
    ],
)
def test_what_is_not_in_this_version_is_refused(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match="is not in this version of Segue") as caught:
        resolve({}, environ)
    assert f"`{named}" in str(caught.value)


@pytest.mark.parametrize("name", ["auto", "float32", "bfloat16", "float16", "int8"])
def test_kv_cache_dtypes(name: str) -> None:
    assert resolve({}, {"KV_CACHE_DTYPE": name}).kv_cache_dtype == name


@pytest.mark.parametrize("quantize", ["int8", "int4", "gptq", "awq", "compressed-tensors", "eetq", "bitsandbytes-nf4"])
def test_quantized_weights(quantize: str) -> None:
    assert resolve({}, {"QUANTIZE": quantize}).quantize == quantize


def test_bitsandbytes_leaves_the_dtype_free() -> None:
    """As in TGI: it rounds weights of any dtype, where the others decide about it."""
    assert resolve({"dtype": "bfloat16", "quantize": "bitsandbytes"}, {}).dtype == "bfloat16"


@pytest.mark.parametrize("environ", [{"SHARDED": "false"}, {"NUM_SHARD": "1"}])
def test_asking_for_the_default_of_a_later_feature_is_fine(environ: dict[str, str]) -> None:
    resolve({}, environ)


def test_wrong_values_of_variables_are_usage_errors() -> None:
    with pytest.raises(OptionError, match="possible values: int8"):
        resolve({}, {"QUANTIZE": "int3"})


def test_connect_config() -> None:
    assert resolve_connect({}, {}).url == "http://127.0.0.1:3000"
    assert resolve_connect({}, {"SEGUE_URL": "http://10.0.0.1", "API_KEY": "k"}).api_key == "k"


def test_R12_vertex_says_where_to_listen() -> None:
    environ = {"AIP_HTTP_PORT": "8085", "AIP_PREDICT_ROUTE": "/p", "AIP_HEALTH_ROUTE": "/h"}
    config = resolve({"port": 80}, environ)
    assert (config.port, config.aip_predict_route, config.aip_health_route) == (8085, "/p", "/h")
    assert resolve({"port": 80}, {"AIP_HTTP_PORT": "x"}).port == 80
    with pytest.raises(ConfigError, match="`port` must be a port number"):
        resolve({}, {"AIP_HTTP_PORT": "70000"})
    with pytest.raises(ConfigError, match="`aip_predict_route` must be a path"):
        resolve({}, {"AIP_PREDICT_ROUTE": "p"})


def test_H1_several_api_keys() -> None:
    assert resolve({}, {"API_KEY": "a, b"}).api_key == ("a", "b")
    assert "secret-key" not in repr(resolve({}, {"API_KEY": "secret-key"}))


def test_S7_speculation() -> None:
    assert resolve({}, {"SPECULATE": "3"}).speculate == 3
    assert resolve({"speculate": 0}, {}).speculate == 0
    assert resolve({}, {"SPECULATIVE_MODEL": "small"}).speculate == 4
    assert resolve({"speculative_model": "small", "speculate": 7}, {}).speculate == 7
    with pytest.raises(ConfigError, match="`speculate` must be >= 0"):
        resolve({"speculate": -1}, {})
    with pytest.raises(ConfigError, match="`speculative_model` needs `speculate` > 0"):
        resolve({"speculative_model": "small", "speculate": 0}, {})


def test_F4_variables_without_a_flag_in_tgi() -> None:
    environ = {
        "ATTENTION": "flashdecoding",
        "PREFIX_CACHING": "false",
        "CUDA_GRAPHS": "1,2",
        "PREFILL_CHUNKING": "0",
        "USE_FLASH_ATTENTION": "false",
    }
    config = resolve({}, environ)
    assert (config.attention, config.prefix_caching, config.cuda_graphs) == ("flashdecoding", False, (1, 2))
    assert (config.prefill_chunking, config.use_flash_attention) == (False, False)
    with pytest.raises(OptionError, match="possible values: flashinfer"):
        resolve({}, {"ATTENTION": "fast"})


@pytest.mark.parametrize("value", ["on", "off", "no-stack"])
def test_F13_usage_stats(value: str) -> None:
    assert resolve({}, {"USAGE_STATS": value}).usage_stats == value


def test_F6_where_the_hub_is_and_what_is_at_hand() -> None:
    environ = {"HUGGINGFACE_HUB_CACHE": "/c", "WEIGHTS_CACHE_OVERRIDE": "/w", "HF_HUB_OFFLINE": "1", "HF_TOKEN": "t"}
    config = resolve({}, environ)
    assert (config.huggingface_hub_cache, config.weights_cache_override) == ("/c", "/w")
    assert (config.hf_hub_offline, config.hf_token) == (True, "t")
