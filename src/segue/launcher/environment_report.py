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
    """Lines of ``name: value``: TGI's, by whose names reports are read, and ours. Imports no package that it names."""
    lines = [
        "Runtime environment:",
        f"Target: {platform.machine()}-{platform.system().lower()}",
        "Cargo version: N/A",
        "Commit sha: N/A",
        "Docker label: N/A",
        f"Segue version: {__version__}",
        f"Python version: {platform.python_version()}",
        *(f"{package}: {_version(package)}" for package in _PACKAGES),
        f"Platform: {platform.platform()}",
        f"CPU: {os.cpu_count()} × {_processor()}",
        *(f"{program}: {_output(program)}" for program in ("nvidia-smi", "xpu-smi", "hpu-smi")),
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


def _output(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        return "N/A"
    result = subprocess.run([path], capture_output=True, text=True, timeout=30)  # noqa: S603
    return "\n" + result.stdout.rstrip() if result.returncode == 0 else "N/A"
