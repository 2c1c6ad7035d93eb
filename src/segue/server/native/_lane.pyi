"""The C++ module: see lane.cpp, pen.h and outlet.h."""

from collections.abc import Callable, Sequence

class Outlet:
    """``segue.server.outlets.Outlet``, which writes to the socket itself where nothing waits in the transport."""

    is_full: bool
    written_time: float
    def __init__(self, socket: int, write: Callable[[bytes], object], num_waiting: Callable[[], int]) -> None: ...
    def write(self, body: bytes) -> None: ...
    def close(self) -> None: ...

class Pieces:
    """``describe``: a token's text as JSON and whether it is special; None where its text hangs on its neighbours."""

    def __init__(self, describe: Callable[[int], tuple[bytes, bool] | None]) -> None: ...

class Template:
    """An event of one token: bytes, and names of fields: index, id, text, shown_text, logprob, special."""

    def __init__(self, items: Sequence[bytes | str]) -> None: ...

class Pen:
    """Writes one stream's tokens and remembers them. ``index``: of the next one, from 1."""

    def __init__(self, pieces: Pieces, template: Template, outlet: Outlet, index: int) -> None: ...
    def take(self) -> tuple[list[int], list[float], dict[int, int]]:
        """Ids, logprobs and {tokens of a step: steps} since the last call."""

class Lane:
    """``step_tag``: the first byte of a frame that holds an ``EngineStep``."""

    def __init__(self, step_tag: int) -> None: ...
    def __len__(self) -> int: ...
    def open(self, request_id: int, pen: Pen) -> None: ...
    def drop(self, request_id: int) -> None: ...
    def clear(self) -> None: ...
    def reader(self) -> LaneReader: ...

class LaneReader:
    def feed(self, data: bytes) -> list[bytes]:
        """The frames that end in ``data``, without what the lane wrote. Raises ``ValueError``."""

    def release(self) -> list[bytes]:
        """Those that were held because only a step's statistics are left in them."""
