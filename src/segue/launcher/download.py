"""From the model's name to its folder: a sample, a local folder, or a download from the Hugging Face Hub.

An adapter is merged into its base on the way, and weights that came from the Hub as ``.bin`` are converted.
"""

import dataclasses
import functools
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError, SegueError
from segue.launcher.merged_models import base_of, is_adapter, merged_folder, parent_of

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["SAMPLES", "DownloadError", "ModelSource", "choose_files", "download_weights", "find_model", "find_text"]

SAMPLES = {"sample-chat": "chat", "sample-t5": "t5"}
"""Models that ship with Segue: name → folder in ``segue/samples``."""

_ATTEMPTS = 5
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_TORCH_WEIGHTS = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_NOT_WEIGHTS = ("arguments", "args", "training", "adapter_model")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_SMALL_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


class DownloadError(SegueError):
    """The model could not be fetched; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the model is, and what the Hub says about it."""

    model_id: str
    folder: Path
    sha: str | None = None
    """Commit on the Hub; None for a local folder."""
    pipeline_tag: str | None = None


def find_model(config: ServeConfig, *, retry_wait_s: float = 5.0) -> ModelSource:
    """The folder of ``config.model_id``, after downloading it if need be, and merging it where it is an adapter.

    Raises:
        ConfigError: there is no such folder, or it cannot be a model.
        DownloadError: the Hub does not have it, does not give it, or cannot be reached.
    """
    source = _locate(config, _Hub(config, retry_wait_s))
    if is_adapter(source.folder):
        return _merged(config, source, retry_wait_s)
    _find_parent(config, source, retry_wait_s)
    folder = _checked(source.folder)
    if source.sha is not None and _has_only_bin(folder):
        try:
            _convert(config, folder)
        except ConfigError as error:  # a full or read-only disk: the weights can be read as they are
            logger.warning("The weights of %s stay as they are: %s", source.model_id, error)
    return source


def find_text(config: ServeConfig, *, retry_wait_s: float = 5.0) -> ModelSource:
    """As ``find_model``, of a model that another process runs: its configuration and tokenizer only."""
    return _locate(config, _Hub(config, retry_wait_s, with_weights=False))


def download_weights(
    config: ServeConfig, *, extension: str, convert: bool, merge_adapter: bool, retry_wait_s: float = 5.0
) -> Path:
    """TGI's ``download-weights``: the folder that then holds all that serving needs.

    ``extension``: the kind of weights to fetch; ``convert``: make safetensors of a model that has only ``.bin``.
    Raises as ``find_model``.
    """
    source = _locate(config, _Hub(config, retry_wait_s, extension=extension))
    if is_adapter(source.folder):
        return _merged(config, source, retry_wait_s).folder if merge_adapter else source.folder
    _find_parent(config, source, retry_wait_s)
    folder = _checked(source.folder)
    if extension == ".safetensors" and _has_only_bin(folder):
        if not convert:
            raise DownloadError(f"No .safetensors weights found for model {config.model_id}")
        _convert(config, folder)
    return folder


def _locate(config: ServeConfig, hub: "_Hub") -> ModelSource:
    name = config.model_id
    if name in SAMPLES:
        return ModelSource(model_id=name, folder=Path(__file__).parent.parent / "samples" / SAMPLES[name])
    if config.weights_cache_override is not None:
        folder = Path(config.weights_cache_override)
        if not folder.is_dir():
            raise ConfigError(f"`weights_cache_override`: {folder} is no folder")
        return ModelSource(model_id=name, folder=folder)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelSource(model_id=name, folder=folder)
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or folder.exists():
        raise ConfigError(f"'{name}' is neither a folder nor a name on the Hub (owner/name)")
    return hub.fetch()


def _merged(config: ServeConfig, adapter: ModelSource, retry_wait_s: float) -> ModelSource:
    """The adapter's name, the merged model's folder."""
    name, revision = base_of(adapter.folder)
    base_config = dataclasses.replace(config, model_id=name, revision=revision, weights_cache_override=None)
    base = find_model(base_config, retry_wait_s=retry_wait_s)
    return dataclasses.replace(adapter, folder=merged_folder(config, adapter.folder, base.folder))


def _find_parent(config: ServeConfig, source: ModelSource, retry_wait_s: float) -> None:
    """Have what a checkpoint of heads alone is based on at hand; as in TGI, serving decides whether it is missed."""
    parent = parent_of(source.folder, source.model_id)
    if parent is None:
        return
    logger.info("Downloading parent model %s", parent)
    try:
        find_model(
            dataclasses.replace(config, model_id=parent, revision=None, weights_cache_override=None),
            retry_wait_s=retry_wait_s,
        )
    except SegueError as error:
        logger.warning("The parent model %s is not at hand: %s", parent, error)


def _has_only_bin(folder: Path) -> bool:
    return not any(folder.glob("*.safetensors")) and any(folder.glob("pytorch_model*.bin"))


def _convert(config: ServeConfig, folder: Path) -> None:
    from segue.launcher.weights_process import convert_weights

    logger.warning(
        "No safetensors weights found for model %s at revision %s. Converting PyTorch weights to safetensors.",
        config.model_id,
        config.revision,
    )
    if not config.trust_remote_code:
        logger.warning("Pickle files may hold code: they are read as plain data, and refused where they hold more")
    convert_weights(folder)


def choose_files(
    names: Iterable[str], *, with_code: bool, extension: str = ".safetensors"
) -> tuple[list[str], list[str]]:
    """Of a repository's files those that serving needs: (configuration and tokenizer, weights).

    Weights are safetensors, or PyTorch's where there are no safetensors (the other way round for ``extension=".bin"``),
    or an adapter's where there is nothing else. Copies in other layouts, other precisions
    and the training's own files are left out.
    """
    names = sorted(names)
    small = [name for name in names if _is_small(name, with_code)]
    loose = [name for name in names if name.endswith(".safetensors") and _is_weight(name)]
    weights = [name for name in loose if _SAFETENSORS.fullmatch(name)] or loose
    torch_weights = [name for name in names if _TORCH_WEIGHTS.fullmatch(name)]
    weights = (torch_weights or weights) if extension == ".bin" else (weights or torch_weights)
    if "adapter_config.json" in small and not ("config.json" in small and weights):
        weights = [name for name in _ADAPTER_WEIGHTS if name in names][:1]
    return small, weights


def _is_small(name: str, with_code: bool) -> bool:
    if "/" in name:
        return name.startswith("additional_chat_templates/") and name.endswith(".jinja")
    return name.endswith((*_SMALL_SUFFIXES, ".py") if with_code else _SMALL_SUFFIXES) and "train" not in name


def _is_weight(name: str) -> bool:
    return "/" not in name and not any(word in name for word in _NOT_WEIGHTS)


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no config.json: it is not a model in Hugging Face layout")
    return folder


class _Hub:
    """One repository on the Hub, and the local cache of it."""

    def __init__(
        self, config: ServeConfig, retry_wait_s: float, *, with_weights: bool = True, extension: str = ".safetensors"
    ) -> None:
        self._config = config
        self._with_weights = with_weights
        self._extension = extension
        self._retry_wait_s = retry_wait_s
        self._name = config.model_id
        self._location: dict[str, Any] = {
            "repo_id": config.model_id,
            "revision": config.revision,
            "cache_dir": config.huggingface_hub_cache,
            "token": config.hf_token,
            "endpoint": config.hf_endpoint,
        }

    def fetch(self) -> ModelSource:
        cached = self._cached()
        if self._config.hf_hub_offline:
            if cached is None:
                raise DownloadError(f"'{self._name}' is not in the cache, and HF_HUB_OFFLINE is set")
            return cached
        try:
            return self._download(num_attempts=_ATTEMPTS if cached is None else 1)
        except ConnectionError as error:
            if cached is None:
                raise DownloadError(f"'{self._name}' cannot be downloaded: {error}") from error
            logger.warning("The Hub cannot be reached; serving %s from the cache: %s", self._name, error)
            return cached

    def _cached(self) -> ModelSource | None:
        """What the cache holds of this revision, if that is a whole model."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(local_files_only=True, **self._location))
        except LocalEntryNotFoundError:
            return None
        small, weights = choose_files([path.name for path in folder.iterdir()], with_code=False)
        if not {"config.json", "adapter_config.json"} & {*small} or not (weights or not self._with_weights):
            return None
        return ModelSource(model_id=self._name, folder=folder, sha=folder.name)

    def _download(self, num_attempts: int) -> ModelSource:
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi(endpoint=self._config.hf_endpoint, token=self._config.hf_token)
        info = self._retrying(
            num_attempts, lambda: api.model_info(self._name, revision=self._config.revision, timeout=20)
        )
        small, weights = choose_files(
            [sibling.rfilename for sibling in info.siblings or []],
            with_code=self._config.trust_remote_code,
            extension=self._extension,
        )
        if not self._with_weights:
            weights = []
        self._check_list(small, weights)
        started = time.monotonic()
        folder = Path()
        for number, name in enumerate([*small, *weights], start=1 - len(small)):
            get_file = functools.partial(hf_hub_download, filename=name, **self._location)
            path = Path(self._retrying(num_attempts, get_file))
            if "/" not in name:
                folder = path.parent
            if number >= 1:
                left_s = (time.monotonic() - started) / number * (len(weights) - number)
                eta = timedelta(seconds=round(left_s))
                logger.info("Download: [%d/%d] -- ETA: %s (%s)", number, len(weights), eta, name)
        return ModelSource(model_id=self._name, folder=folder, sha=info.sha, pipeline_tag=info.pipeline_tag)

    def _check_list(self, small: list[str], weights: list[str]) -> None:
        if not {"config.json", "adapter_config.json"} & {*small}:
            raise DownloadError(f"'{self._name}' has no config.json: it is not a model in Hugging Face layout")
        if self._with_weights and not weights:
            raise DownloadError(f"'{self._name}' has no weights (neither *.safetensors nor pytorch_model*.bin)")

    def _retrying(self, num_attempts: int, call: Callable[[], ResultT]) -> ResultT:
        """``call()``, again while the network or the Hub fails.

        Raises DownloadError for an answer that will not change, ConnectionError when the attempts are used up.
        """
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

        # The HTTP library under huggingface_hub differs between its versions; this base class is always its own.
        http_error: type[Exception] = HfHubHTTPError.__bases__[0]

        def attempt() -> ResultT:
            try:
                return call()
            except HfHubHTTPError as error:
                if error.response.status_code < 500 and error.response.status_code not in (408, 429):
                    self._explain(error)
                raise ConnectionError(str(error)) from error
            except (http_error, LocalEntryNotFoundError) as error:
                raise ConnectionError(str(error)) from error

        def log(state: "RetryCallState") -> None:
            assert state.outcome is not None
            logger.warning("%s. Retry %d/%d", state.outcome.exception(), state.attempt_number, num_attempts - 1)

        retrying = Retrying(
            retry=retry_if_exception_type(ConnectionError),
            stop=stop_after_attempt(num_attempts),
            wait=wait_fixed(self._retry_wait_s),
            before_sleep=log,
            reraise=True,
        )
        return retrying(attempt)

    def _explain(self, error: Exception) -> NoReturn:
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if isinstance(error, GatedRepoError):
            reason = f"'{self._name}' is gated: ask for access on its page, then set HF_TOKEN to a token of yours"
        elif isinstance(error, RepositoryNotFoundError):
            reason = f"'{self._name}' is neither a local folder nor a model on the Hub; a private one needs HF_TOKEN"
        elif isinstance(error, RevisionNotFoundError):
            reason = f"'{self._name}' has no revision '{self._config.revision}'"
        elif isinstance(error, EntryNotFoundError):
            reason = f"'{self._name}' changed while it was downloaded: {error}"
        else:
            reason = f"'{self._name}' cannot be downloaded: {error}"
        raise DownloadError(reason) from error
