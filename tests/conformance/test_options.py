import pytest

from segue.conformance.options import CheckOptions
from segue.core.options import OptionError, resolve_options


@pytest.mark.parametrize(
    ("given", "environ", "wanted"),
    [
        ({}, {}, (True, True)),
        ({"standard": True}, {}, (True, False)),
        ({"container": True}, {}, (False, True)),
        ({"standard": True, "container": True}, {}, (True, True)),
        ({"skip_container": True}, {}, (True, False)),
        ({}, {"SKIP_CONTAINER_TESTS": "yes"}, (True, False)),
        ({}, {"SKIP_CONTAINER_TESTS": "false"}, (True, True)),
    ],
)
def test_what_is_checked(given: dict[str, bool], environ: dict[str, str], wanted: tuple[bool, bool]) -> None:
    options = resolve_options(CheckOptions, given, environ, {})
    assert (options.wants_standard, options.wants_container) == wanted


@pytest.mark.parametrize("environ", [{}, {"SKIP_CONTAINER_TESTS": "1"}])
def test_asking_for_what_is_left_out(environ: dict[str, str]) -> None:
    given = {"container": True} if environ else {"container": True, "skip_container": True}
    with pytest.raises(OptionError, match="--skip-container"):
        resolve_options(CheckOptions, given, environ, {})


def test_documented_variables() -> None:
    environ = {
        "HF_API_KEY": "k",
        "HF_MODEL_ID": "m",
        "HF_CONTAINER_URL": "http://h",
        "DOCKER_REGISTRY": "r",
        "CONTAINER_TAG": "t",
        "GPU_DEVICE": "0",
    }
    options = resolve_options(CheckOptions, {}, environ, {})
    found = (options.api_key, options.model, options.container_url)
    assert found == ("k", "m", "http://h")
    assert (options.docker_registry, options.container_tag, options.gpu_device) == ("r", "t", "0")
    assert "'k'" not in repr(options)
