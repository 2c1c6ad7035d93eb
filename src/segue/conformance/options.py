"""Options of ``segue check``."""

from dataclasses import dataclass

from segue.core.options import OptionError, option

__all__ = ["CheckOptions"]

_WHAT = "What is checked"
_WHERE = "The server"
_RESULTS = "Results"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Raises OptionError for options that exclude each other."""

    standard: bool = option(False, "Check the API of a server, and the client with it.", group=_WHAT, env=())
    container: bool = option(
        False, "Check a server in a container, from its start to its end. Neither of both: both.", group=_WHAT, env=()
    )
    skip_container: bool = option(False, "Leave the checks of containers out.", group=_WHAT, env="SKIP_CONTAINER_TESTS")

    container_url: str | None = option(
        None, "A server that runs already. Default: one is started, and stopped again.", group=_WHERE,
        env="HF_CONTAINER_URL", metavar="URL",
    )  # fmt: skip
    model: str = option(
        "sample-chat", "What a server that is started serves.", group=_WHERE, env="HF_MODEL_ID", metavar="MODEL"
    )
    api_key: str | None = option(
        None,
        "Key that the server asks for; one that is started will ask for it.",
        group=_WHERE,
        env=("HF_API_KEY", "HF_API_TOKEN"),
        secret=True,
        metavar="KEY",
    )
    runtime: str = option(
        "docker", "Where the container checks start their server; process: without a container.", group=_WHERE,
        env=(), choices=("docker", "process"),
    )  # fmt: skip
    docker_registry: str = option(
        "segue", "Image of the container, without its tag.", group=_WHERE, env="DOCKER_REGISTRY", metavar="IMAGE"
    )
    container_tag: str = option("latest", "Tag of the image.", group=_WHERE, env="CONTAINER_TAG", metavar="TAG")
    gpu_device: str | None = option(
        None, "GPU of the container: its number, or all. Default: none.", group=_WHERE, env="GPU_DEVICE", metavar="GPU"
    )

    results_dir: str = option(
        ".", "Folder of collected_results/ and expected_results/.", group=_RESULTS, env=(), metavar="FOLDER"
    )
    update_expected: bool = option(False, "Make these results the expected ones.", group=_RESULTS, env=())
    json: bool = option(False, "Print the results as JSON.", group=_RESULTS, env=())

    def __post_init__(self) -> None:
        if self.container and self.skip_container:
            raise OptionError("--container asks for what --skip-container (or SKIP_CONTAINER_TESTS) leaves out")

    @property
    def wants_standard(self) -> bool:
        return self.standard or not self.container

    @property
    def wants_container(self) -> bool:
        return not self.skip_container and (self.container or not self.standard)
