"""Start, watch and stop a server in a container, or as a plain process with the same interface.

with Container(preset("segue", "sample-chat")) as server:
    print(server.client().generate("Once upon").generated_text)
"""

from segue.containers.container import Container, ContainerStatus, open_runtime
from segue.containers.errors import ContainerError
from segue.containers.presets import PRESETS, preset
from segue.containers.spec import ContainerSpec

__all__ = ["PRESETS", "Container", "ContainerError", "ContainerSpec", "ContainerStatus", "open_runtime", "preset"]
