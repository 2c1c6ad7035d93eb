"""The argv of every preset, word for word as its users type it; order is free."""

import shlex
from collections import Counter

import pytest

from segue.containers.presets import PRESETS, preset
from segue.core.errors import ConfigError

T5 = "google/t5-efficient-tiny"
GOOGLE = "us-docker.pkg.dev/deeplearning-platform-release/gcr.io/huggingface-text-generation-inference"


def _split(argv: list[str], image: str) -> tuple[Counter[str], Counter[str]]:
    """(flags of docker with their values, what stands behind the image): both without order."""
    at = argv.index(image)
    return Counter(_pairs(argv[:at])), Counter(_pairs(argv[at + 1 :]))


def _pairs(words: list[str]) -> list[str]:
    grouped: list[str] = []
    for word in words:
        if word.startswith("-") or not grouped or " " in grouped[-1] or not grouped[-1].startswith("-"):
            grouped.append(word)
        else:
            grouped[-1] += f" {word}"
    return grouped


CASES = {
    "ipfs": (
        preset("ipfs", T5, image="huggingface/text-generation-inference:1.2"),
        "docker run -d --name tgi-google-t5-efficient-tiny -p 8080:80 --gpus device=0 --shm-size 1g "
        "-e MODEL_ID=google/t5-efficient-tiny -e NUM_SHARD=1 -e MAX_INPUT_LENGTH=1024 -e MAX_TOTAL_TOKENS=2048 "
        "-e TRUST_REMOTE_CODE=true huggingface/text-generation-inference:1.2",
    ),
    "ipfs-cpu": (
        preset("ipfs-cpu", T5),
        "docker run -d --name tgi-google-t5-efficient-tiny -p 8080:80 --cpus 2 --memory 4g --shm-size 1g "
        "-e MODEL_ID=google/t5-efficient-tiny -e NUM_SHARD=1 -e MAX_INPUT_LENGTH=1024 -e MAX_TOTAL_TOKENS=2048 "
        "huggingface/text-generation-inference:latest",
    ),
    "ipfs-cpu with code": (
        preset("ipfs-cpu", T5, options={"trust_remote_code": True, "num_shard": None}),
        "docker run -d --name tgi-google-t5-efficient-tiny -p 8080:80 --cpus 2 --memory 4g --shm-size 1g "
        "-e MODEL_ID=google/t5-efficient-tiny -e MAX_INPUT_LENGTH=1024 -e MAX_TOTAL_TOKENS=2048 "
        "-e TRUST_REMOTE_CODE=true huggingface/text-generation-inference:latest",
    ),
    "ghcr": (
        preset("ghcr", "my/model", volumes=("/models:/data",), options={"num_shard": 2}),
        "docker run --gpus all --shm-size 1g -p 8080:80 -v /models:/data "
        "ghcr.io/huggingface/text-generation-inference:3.3.5 --model-id my/model --num-shard 2",
    ),
    "ghcr on CPU": (
        preset("ghcr", "my/model", gpus=None, volumes=("tgi:/data",)),
        "docker run --shm-size 1g -p 8080:80 -v tgi:/data "
        "ghcr.io/huggingface/text-generation-inference:3.3.5 --model-id my/model",
    ),
    "google-gpu": (
        preset("google-gpu", "google/gemma-7b-it"),
        "docker run --gpus all --shm-size 1g -p 8080:8080 -e MODEL_ID=google/gemma-7b-it -e NUM_SHARD=1 -e HF_TOKEN "
        f"-e MAX_INPUT_LENGTH=4000 -e MAX_TOTAL_TOKENS=4096 {GOOGLE}-cu124.2-4.ubuntu2204.py311",
    ),
    "google-tpu": (
        preset("google-tpu", "google/gemma-2b-it"),
        "docker run --rm --shm-size 16G --ipc host --privileged -p 8080:8080 -e HF_TOKEN "
        "-e MODEL_ID=google/gemma-2b-it "
        f"{GOOGLE}-tpu.0.2.3.py310",
    ),
    "dspy": (
        preset("dspy", "my/model", port=8090, volumes=("/models:/data",)),
        "docker run --gpus all --shm-size 1g -p 8090:80 -v /models:/data "
        "ghcr.io/huggingface/text-generation-inference:1.1.0 --model-id my/model --num-shard 1 "
        "--max-input-length 4000 --max-total-tokens 4096 --max-best-of 100",
    ),
    "segue": (
        preset("segue", "sample-chat", port=8080),
        "docker run -d --name segue-sample-chat -p 127.0.0.1:8080:80 --shm-size 1g -e HF_TOKEN "
        "segue:latest --model-id sample-chat",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_argv(case: str) -> None:
    spec, expected = CASES[case]
    assert _split(spec.docker_argv(), spec.image) == _split(shlex.split(expected), spec.image)


def test_every_preset_has_a_case() -> None:
    assert {case.split()[0] for case in CASES} == set(PRESETS)


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match="no preset 'tgi'"):
        preset("tgi", "my/model")
