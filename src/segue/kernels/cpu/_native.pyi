"""The C++ module. Addresses (``x``, ``out``, …) are of float32 rows unless said otherwise; 0: none."""

def available_isas() -> list[str]: ...
def isa() -> str: ...
def use_isa(name: str) -> None: ...
def num_threads() -> int: ...
def set_num_threads(count: int, pinned: bool = False) -> None: ...

class PackedLinear:
    @staticmethod
    def pack_float(
        kind: str, weight: int, dtype: str, stride: int, n: int, k: int, bias: int = 0, gated: bool = False
    ) -> PackedLinear: ...
    @staticmethod
    def quantize(
        kind: str,
        weight: int,
        dtype: str,
        stride: int,
        n: int,
        k: int,
        group: int = 0,
        has_zeros: bool = False,
        table: int = 0,
        bias: int = 0,
        gated: bool = False,
    ) -> PackedLinear: ...
    @staticmethod
    def pack_codes(
        kind: str,
        codes: int,
        scales: int,
        zeros: int,
        n: int,
        k: int,
        group: int = 0,
        table: int = 0,
        permutation: int = 0,
        bias: int = 0,
        gated: bool = False,
    ) -> PackedLinear: ...
    @property
    def kind(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def gated(self) -> bool: ...
    @property
    def num_outputs(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

def linear(
    packed: PackedLinear,
    x: int,
    x_stride: int,
    rows: int,
    out: int,
    out_stride: int,
    activation: str = "none",
    residual: int = 0,
    residual_stride: int = 0,
    scale: float = 1.0,
) -> None: ...
