"""What a bug report should say about the machine; TGI's ``--env``."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from segue._version import __version__

__all__ = ["environment_report"]

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "uvicorn", "starlette")


def environment_report() -> str:
    """Lines of ``name: value``, after the heading that TGI prints. Imports none of the packages it names."""
    lines = [
        "Runtime environment:",
        f"Target: {platform.machine()}-{platform.system().lower()}",
        f"Segue version: {__version__}",
        f"Python version: {platform.python_version()}",
        *(f"{package}: {_version(package)}" for package in _PACKAGES),
        f"Platform: {platform.platform()}",
        f"CPU: {os.cpu_count()} × {_processor()}",
        f"nvidia-smi: {_nvidia_smi()}",
    ]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "N/A"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or "unknown"


def _nvidia_smi() -> str:
    path = shutil.which("nvidia-smi")
    if path is None:
        return "N/A"
    result = subprocess.run([path], capture_output=True, text=True, timeout=30)  # noqa: S603
    return "\n" + result.stdout.rstrip() if result.returncode == 0 else "N/A"
