"""The C++ module. Addresses (``x``, ``out``, …) are of float32 rows unless said otherwise; 0: none."""

from collections.abc import Sequence as Seq

def available_isas() -> list[str]: ...
def isa() -> str: ...
def use_isa(name: str) -> None: ...
def num_threads() -> int: ...
def set_num_threads(count: int, pinned: bool = False) -> None: ...

_Part = tuple[int, str, int, int]
"""Rows of a weight: their address, their kind, the elements between them, their number."""

class PackedLinear:
    """Exports its bytes as a read-only buffer, which ``from_buffer`` takes without a copy at a multiple of 64 bytes."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    @staticmethod
    def from_buffer(buffer: object) -> PackedLinear: ...
    @staticmethod
    def pack_float(
        kind: str, parts: list[_Part], n: int, k: int, bias: int = 0, gated: bool = False
    ) -> PackedLinear: ...
    @staticmethod
    def quantize(
        kind: str,
        parts: list[_Part],
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

EXTERNAL_INPUT: int
EXTERNAL_OUTPUT: int

_Place = tuple[int, int] | None
"""(buffer, column)."""
_Sequences = tuple[int, int, int, int, int]
"""Their number; the addresses of query_starts, kv_lens and block_tables; the tables' width."""

class Cache:
    @staticmethod
    def make(
        keys: int,
        values: int,
        kind: int,
        block_size: int,
        kv_heads: int,
        key_dim: int,
        value_dim: int,
        key_scales: int,
        value_scales: int,
        by_heads: bool,
        keys_by_dims: bool,
    ) -> Cache: ...

class AttentionSpec:
    @staticmethod
    def make(
        *,
        num_heads: int,
        kv_heads: int,
        key_dim: int,
        value_dim: int,
        scale: float,
        causal: bool,
        window: int,
        soft_cap: float,
        alibi_slopes: int,
        alibi_is_rounded: bool,
        distance_bias: int,
        max_distance: int,
        sinks: int,
    ) -> AttentionSpec: ...

class Program:
    def __init__(self, widths: list[int], tile_rows: int, whole_sequences: bool) -> None: ...
    def __len__(self) -> int: ...
    def linear(self, *, weight: PackedLinear, x: _Place, out: _Place, residual: _Place, activation: str) -> None: ...
    def embed(
        self, *, ids: int, table: int, kind: int, num_embeddings: int, dim: int, offset: int, out: _Place
    ) -> None: ...
    def norm(
        self, *, x: _Place, out: _Place, groups: int, dim: int, weight: int, bias: int, eps: float, centered: bool
    ) -> None: ...
    def angles(
        self, *, inverse: list[float], long_inverse: list[float], factor: float, long_factor: float, out: _Place
    ) -> None: ...
    def rotate(
        self, *, x: _Place, angles: _Place, heads: int, head_dim: int, pairs: int, interleaved: bool
    ) -> None: ...
    def binary(self, *, op: int, dim: int, a: _Place, b: _Place, constant: int, out: _Place) -> None: ...
    def activate(
        self, *, activation: str, dim: int, scale: float, soft_cap: float, x: _Place, multiplied: _Place, out: _Place
    ) -> None: ...
    def write(self, *, cache: Cache, keys: _Place, values: _Place) -> None: ...
    def attend(
        self,
        *,
        what: int,
        spec: AttentionSpec,
        cache: Cache | None,
        q: _Place,
        k: _Place,
        v: _Place,
        out: _Place,
    ) -> None: ...
    def run(
        self,
        *,
        rows: int,
        tokens: int,
        positions: int,
        is_long: int,
        slots: int,
        self_attention: _Sequences,
        cross_attention: _Sequences,
        input: int,
        input_stride: int,
        output: int,
        output_stride: int,
        wanted: int,
    ) -> None: ...
    def narrow(self, buffers: list[int]) -> None: ...
    profiling: bool
    def take_times(self) -> list[float]: ...

def embed(
    ids: int,
    rows: int,
    dim: int,
    table: int,
    kind: int,
    out: int,
    out_stride: int,
    num_embeddings: int,
    offset: int = 0,
    scale: float = 1.0,
    accumulate: bool = False,
) -> None: ...
def norm(
    x: int,
    x_stride: int,
    rows: int,
    dim: int,
    out: int,
    out_stride: int,
    eps: float,
    centered: bool,
    weight: int = 0,
    bias: int = 0,
    groups: int = 1,
) -> None: ...
def angles(
    positions: int,
    rows: int,
    pairs: int,
    inverse: int,
    out: int,
    factor: float = 1.0,
    is_long: int = 0,
    long_inverse: int = 0,
    long_factor: float = 1.0,
) -> None: ...
def rotate(
    x: int,
    x_stride: int,
    rows: int,
    heads: int,
    head_dim: int,
    pairs: int,
    angles: int,
    interleaved: bool = False,
) -> None: ...
def binary(
    a: int,
    a_stride: int,
    b: int,
    b_stride: int,
    rows: int,
    dim: int,
    out: int,
    out_stride: int,
    op: int,
    scale: float = 1.0,
) -> None: ...
def activate(
    x: int,
    x_stride: int,
    rows: int,
    dim: int,
    out: int,
    out_stride: int,
    activation: int,
    scale: float = 1.0,
    soft_cap: float = 0.0,
    multiplied: int = 0,
    multiplied_stride: int = 0,
) -> None: ...
def gather(x: int, x_stride: int, indices: int, rows: int, dim: int, out: int, out_stride: int) -> None: ...

class PackedSequences:
    """``given``: addresses in arrays of its own. Raises ValueError for lists that do not belong together."""

    def __init__(
        self, query_lens: Seq[int], kv_lens: Seq[int], block_tables: Seq[Seq[int]], block_size: int
    ) -> None: ...
    @property
    def given(self) -> _Sequences: ...

def pack_tokens(
    token_ids: Seq[Seq[int]],
    starts: Seq[int],
    block_tables: Seq[Seq[int]],
    block_size: int,
    out: int,
    num_tokens: int,
) -> None: ...

class PlainStep:
    """``run``: for each step (id, logprob) of each sequence, its alternatives behind where it asked for some, up to
    the first that has NaN for one of them; the seconds that choosing took."""

    def __init__(
        self, forward: Program, logits: Program, hidden_width: int, vocab_size: int, block_size: int
    ) -> None: ...
    def run(
        self,
        token_ids: Seq[Seq[int]],
        starts: Seq[int],
        block_tables: Seq[Seq[int]],
        cross_lens: Seq[int],
        cross_tables: Seq[Seq[int]],
        choosers: Seq[tuple[object, ...] | None],
        max_steps: int,
        stop_token_ids: list[int],
        news_file: int,
    ) -> tuple[list[list[tuple[int, float] | tuple[int, float, tuple[tuple[int, float], ...]]]], float]: ...

def choose(
    logits: int, stride: int, vocab_size: int, uniforms: list[float]
) -> list[tuple[int, float, float, float]]: ...
def peaks(logits: int, stride: int, vocab_size: int, rows: int) -> list[float]: ...
def keep_top_k(logits: int, stride: int, vocab_size: int, rows: list[int], limits: list[int]) -> None: ...
def keep_top_p(logits: int, stride: int, vocab_size: int, rows: list[int], shares: list[float]) -> None: ...
def likeliest(
    logits: int, stride: int, vocab_size: int, counts: list[int], chosen: list[tuple[int, float, float, float]]
) -> list[list[tuple[int, float]]]: ...
def keep_typical(logits: int, stride: int, vocab_size: int, rows: list[int], shares: list[float]) -> None: ...
def write_kv(
    keys: int, key_stride: int, values: int, value_stride: int, rows: int, slots: int, cache: Cache
) -> None: ...
def paged_attention(
    q: int, q_stride: int, cache: Cache, sequences: _Sequences, spec: AttentionSpec, out: int, out_stride: int
) -> None: ...
def packed_attention(
    q: int,
    q_stride: int,
    k: int,
    k_stride: int,
    v: int,
    v_stride: int,
    sequences: _Sequences,
    spec: AttentionSpec,
    out: int,
    out_stride: int,
) -> None: ...
def measure_read_bandwidth(num_bytes: int, repeats: int = 5) -> float: ...
def measure_read_seconds(layers: list[PackedLinear]) -> float: ...
def measure_multiplications(integers: bool, repeats: int = 1000) -> float: ...
