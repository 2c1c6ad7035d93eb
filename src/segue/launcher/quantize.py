"""``text-generation-server quantize``: a checkpoint with weights of few bits by GPTQ."""

import gc
import logging
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import TYPE_CHECKING

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.calibration_text import encoded, own_text, read_text, windows_of
from segue.launcher.download import DownloadError, find_model
from segue.launcher.progress import LayersBar

if TYPE_CHECKING:
    from segue.launcher.server_command import QuantizeOptions

__all__ = ["calibrate", "quantize"]

GROUP_SIZES = (-1, 32, 64, 128, 256)

logger = logging.getLogger(__name__)


def quantize(config: ServeConfig, output: str, options: "QuantizeOptions") -> None:
    """Write the quantized model to the folder ``output``, and upload it if asked to.

    TGI's command calibrates with a text that it downloads; this one with the file ``text``, or what the model writes.

    Raises:
        ConfigError: an option has no such value, or the model cannot be quantized.
        DownloadError: the model cannot be fetched, or the result not uploaded.
    """
    if options.groupsize not in GROUP_SIZES:
        raise ConfigError(f"`groupsize` must be one of {', '.join(map(str, GROUP_SIZES))}")
    if options.bits not in (4, 8):
        raise ConfigError("`bits` must be 4 or 8")
    text = None if options.text is None else read_text(Path(options.text))
    folder = find_model(config).folder
    calibrate(
        config,
        folder,
        Path(output),
        None if text is None else encoded(config, folder, text),
        bits=options.bits,
        group=options.groupsize,
        damping=options.percdamp,
        act_order=options.act_order,
    )
    logger.info("The quantized model is in %s", output)
    if options.upload_to_model_id is not None:
        _upload(config, Path(output), options.upload_to_model_id)


def calibrate(
    config: ServeConfig,
    folder: Path,
    output: Path,
    token_ids: Seq[int] | None,
    *,
    bits: int = 4,
    group: int,
    damping: float | None,
    act_order: bool,
) -> None:
    """Write ``folder``'s model by GPTQ to ``output``. ``token_ids``: of the text; None: the model writes one.

    Raises:
        ConfigError: the damping or the model does not allow it, or ``output`` is not empty.
    """
    if damping is not None and not 0 <= damping <= 1:
        raise ConfigError("`percdamp` must be from 0 to 1")

    from segue.models.quantized_checkpoint import quantizable_model
    from segue.quantization.calibration import GPTQOptions
    from segue.runner.build import chosen_device, set_threads
    from segue.runner.calibration import calibrate_checkpoint

    model = quantizable_model(folder, output, "gptq")
    if model.is_encoder_decoder:
        raise ConfigError("gptq quantization is for models without an encoder; `segue quantize` rounds both kinds")
    windows = own_text(config, folder) if token_ids is None else windows_of(token_ids, model.max_positions)
    options = GPTQOptions(bits=bits, group=group, damping=0.01 if damping is None else damping, act_order=act_order)
    set_threads(config.num_threads)
    with LayersBar("Calibrating layers", is_wanted=not config.json_output) as bar:
        calibrate_checkpoint(folder, output, windows, options, device=chosen_device(config.device), progress=bar.update)
    gc.collect()  # the float model's layers refer to each other


def _upload(config: ServeConfig, folder: Path, name: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=config.hf_endpoint, token=config.hf_token)
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except (HfHubHTTPError, OSError) as error:
        raise DownloadError(f"'{name}' cannot be uploaded to: {error}") from error
