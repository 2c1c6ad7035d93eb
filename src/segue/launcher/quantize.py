"""``text-generation-server quantize``: a checkpoint in GPTQ's format, as TGI writes it."""

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.download import DownloadError, find_model

if TYPE_CHECKING:
    from segue.launcher.server_command import QuantizeOptions

__all__ = ["quantize"]

BITS = 4
_CONVERTER = "segue.quantization.convert"

logger = logging.getLogger(__name__)


def quantize(config: ServeConfig, output: str, options: "QuantizeOptions") -> None:
    """Write the quantized model to the folder ``output``, and upload it if asked to.

    Raises:
        ConfigError: this version cannot quantize, or not this model so.
        DownloadError: the model cannot be fetched, or the result not uploaded.
    """
    try:
        converter = importlib.import_module(_CONVERTER)
    except ModuleNotFoundError as error:
        if error.name is None or not _CONVERTER.startswith(error.name):
            raise
        raise ConfigError(
            "`text-generation-server quantize` is not in this version of Segue: quantized checkpoints come with issue 4"
        ) from None
    source = find_model(config)
    converter.quantize_checkpoint(
        source.folder,
        Path(output),
        "gptq",
        bits=BITS,
        group_size=options.groupsize,
        percdamp=options.percdamp,
        act_order=options.act_order,
        trust_remote_code=config.trust_remote_code,
    )
    logger.info("The quantized model is in %s", output)
    if options.upload_to_model_id is not None:
        _upload(config, Path(output), options.upload_to_model_id)


def _upload(config: ServeConfig, folder: Path, name: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=config.hf_endpoint, token=config.hf_token)
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except (HfHubHTTPError, OSError) as error:
        raise DownloadError(f"'{name}' cannot be uploaded to: {error}") from error
