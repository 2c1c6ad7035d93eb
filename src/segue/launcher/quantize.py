"""``text-generation-server quantize``: a checkpoint with weights of 4 bits."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.download import DownloadError, find_model
from segue.launcher.progress import BytesBar

if TYPE_CHECKING:
    from segue.launcher.server_command import QuantizeOptions

__all__ = ["quantize"]

GROUP_SIZES = (32, 64, 128, 256)

logger = logging.getLogger(__name__)


def quantize(config: ServeConfig, output: str, options: "QuantizeOptions") -> None:
    """Write the quantized model to the folder ``output``, and upload it if asked to.

    TGI's command runs GPTQ on a calibration text that it downloads; this one rounds without any, to int4 groups whose
    scales have the least squared error, and writes them in the layout of compressed-tensors.

    Raises:
        ConfigError: an option is GPTQ's own, or the model cannot be quantized.
        DownloadError: the model cannot be fetched, or the result not uploaded.
    """
    if options.act_order or options.percdamp is not None:
        raise ConfigError(
            "`act_order` and `percdamp` are for GPTQ's calibration, which is not in this version of Segue"
        )
    if options.groupsize not in GROUP_SIZES:
        raise ConfigError(f"`groupsize` must be one of {', '.join(map(str, GROUP_SIZES))}")
    source = find_model(config)

    from segue.models.quantized_checkpoint import quantize_checkpoint
    from segue.quantization.methods import method_named

    method = method_named("int4", int8_activations=False, group=options.groupsize)
    with BytesBar("Rounding weights", is_wanted=not config.json_output) as bar:
        quantize_checkpoint(source.folder, Path(output), method, bar.update)
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
