"""How a command ends: 0 done, 1 failed with TGI's name of the failure, 2 a wrong command line."""

import argparse
import json
import sys
from collections.abc import Callable

from segue.core.config import OptionError
from segue.core.errors import ConfigError, SegueError

__all__ = ["run_command"]

_VARIANTS = {
    "DownloadError": "DownloadError",
    "EngineStartError": "ShardCannotStart",
    "EngineLostError": "ShardFailed",
    "PortError": "WebserverCannotStart",
    "WebserverError": "WebserverFailed",
}
"""Our errors → TGI's names, which tooling looks for in ``Error: <Variant>``."""


def run_command(command: Callable[[argparse.Namespace], None], namespace: argparse.Namespace) -> int:
    """``command(namespace)``; the exit code. What went wrong is on standard error."""
    try:
        command(namespace)
    except OptionError as error:
        return _fail(f"error: {error}\n\nFor more information, try '--help'.", 2)
    except ConfigError as error:
        name = "NotEnoughCUDADevices" if type(error).__name__ == "NotEnoughDevicesError" else "ArgumentValidation"
        return _fail(f"Error: {name}({json.dumps(str(error), ensure_ascii=False)})", 1)
    except SegueError as error:
        return _fail(f"Error: {_VARIANTS.get(type(error).__name__, type(error).__name__)}: {error}", 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `segue generate … | head`
        sys.stderr.close()
        return 0
    return 0


def _fail(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
