// Weights multiplied as floats. Every output is one chain of multiply-adds over k, in order, whatever the tile that it
// is in: that makes a row's result independent of the others.
//
// A kind of weight is a class Panel with
//   tile<R>(x [padded k][R], sums [R][panel_width]): the product of the whole panel, decoding weights in registers;
//   floats(begin, count, buffer): the weights of inputs [begin, begin + count) as floats [count][panel_width];
//   at(begin): the address of what `floats` reads;
//   padded(k): the number of inputs that it reads;
//   direct_tiles: up to so many tiles decode a block in registers, each anew, as `Stored` kind from stored(begin); or 0;
//   has_pairs: whether it has tile_pair(x [padded k], sums [2][panel_width]) for one row, this panel and the next.
#pragma once

#include "linear_tile.inl"
#include "transpose.inl"

namespace segue::SEGUE_ISA {

// At most; a multiple of 8. 16 KiB of floats: half of a first-level cache of 32 KiB.
constexpr int64_t block_inputs = 128;

struct F32 {
    typedef float Storage;
    SEGUE_INLINE fnative get(const float* from) { return load<fnative>(from); }
};

struct F16 {
    typedef uint16_t Storage;
    SEGUE_INLINE fnative get(const uint16_t* from) { return native_of_f16(from); }
};

struct BF16 {
    typedef uint16_t Storage;
    SEGUE_INLINE fnative get(const uint16_t* from) { return native_of_bf16(from); }
};

template <int R, int V>
SEGUE_INLINE void load_sums(fnative (&acc)[R][V], const float* sums, bool adds) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < V; ++c)
            acc[r][c] = adds ? load<fnative>(sums + r * panel_width + c * native_lanes) : fnative{};
}

template <int R, int V>
SEGUE_INLINE void store_sums(float* sums, const fnative (&acc)[R][V]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < V; ++c) store(sums + r * panel_width + c * native_lanes, acc[r][c]);
}

// acc += x [R] times one input's weights.
template <int R, int V>
SEGUE_INLINE void multiply_add(fnative (&acc)[R][V], const float* x, const fnative (&w)[V]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        fnative a = splat(x[r]);
#pragma GCC unroll 8
        for (int c = 0; c < V; ++c) acc[r][c] = fused(a, w[c], acc[r][c]);
    }
}

// x [k][R] times `columns_of` R columns of weights [k][panel_width], into or added to sums [R][panel_width].
template <class Weights, int R>
static void float_tile(
    const typename Weights::Storage* weights, const float* x, int64_t k, bool adds, Ahead& ahead, float* sums) {
    constexpr int V = vectors_of(R);
    fnative acc[R][V];
    load_sums<R>(acc, sums, adds);
    for (int64_t i = 0; i < k; ++i, weights += panel_width, x += R) {
        ahead.ask<R>();
        fnative w[V];
#pragma GCC unroll 8
        for (int c = 0; c < V; ++c) w[c] = Weights::get(weights + c * native_lanes);
        multiply_add<R>(acc, x, w);
    }
    store_sums<R>(sums, acc);
}

template <class Weights>
class FloatPanel {
  public:
    typedef Weights Stored;
    typedef typename Weights::Storage Storage;

    FloatPanel(const Linear& weight, int64_t panel)
        : data_(reinterpret_cast<const Storage*>(weight.data) + panel * weight.k * panel_width), k_(weight.k) {}

    static constexpr bool has_pairs = false;
    // 14 to 24 rows of 16-bit floats are 1.02 to 1.1 times as fast as from a block that is converted once (Zen 4).
    static constexpr int direct_tiles = 2;
    static int64_t padded(int64_t k) { return k; }

    template <int R>
    void tile(const float* x, float* sums) const {
        for (int64_t column = 0; column < panel_width; column += columns_of(R)) {
            Ahead ahead = Ahead::of_panel(at(0), panel_width * sizeof(Storage));
            float_tile<Weights, R>(data_ + column, x, k_, false, ahead, sums + column);
        }
    }

    const Storage* stored(int64_t begin) const { return data_ + begin * panel_width; }

    const std::byte* at(int64_t begin) const { return reinterpret_cast<const std::byte*>(stored(begin)); }

    const float* floats(int64_t begin, int64_t count, float* buffer) const {
        const Storage* from = stored(begin);
        if constexpr (sizeof(Storage) == sizeof(float)) return from;
        for (int64_t i = 0; i < count * panel_width; i += native_lanes) store(buffer + i, Weights::get(from + i));
        return buffer;
    }

  private:
    const Storage* data_;
    int64_t k_;
};

template <class Panel>
struct WholeTile {
    const Panel& panel;
    const float* x;
    float* sums;

    template <int R>
    void run() const {
        panel.template tile<R>(x, sums);
    }
};

template <class Weights>
struct BlockTile {
    const typename Weights::Storage* weights;
    const float* x;
    int64_t count;
    bool adds;
    Ahead ahead;
    float* sums;

    template <int R>
    void run() const {
        Ahead next = ahead;
        for (int64_t column = 0; column < panel_width; column += columns_of(R))
            float_tile<Weights, R>(weights + column, x, count, adds, next, sums + column);
    }
};

// x [at most 4 rows][register_lanes inputs], `stride` apart, → as many columns, `gap` apart; beyond `rows` rows zeros.
template <int columns>
SEGUE_INLINE void transpose_rows(const float* x, int64_t stride, int64_t rows, float* to, int64_t gap) {
    f32xr block[4] = {};
#pragma GCC unroll 4
    for (int r = 0; r < columns; ++r)
        if (r < rows) block[r] = load<f32xr>(x + r * stride);
    exchange<1>(block[0], block[1]), exchange<1>(block[2], block[3]);
    exchange<2>(block[0], block[2]), exchange<2>(block[1], block[3]);
#pragma GCC unroll 4
    for (int first = 0; first < register_lanes; first += 4)  // each quarter is a square of its own
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
            memcpy(to + (first + i) * gap, reinterpret_cast<const float*>(&block[i]) + first, columns * sizeof(float));
}

// Inputs [begin, end) of a tile's rows → [end - begin][rows of the tile]; rows and inputs beyond the last are zeros.
struct TransposedTile {
    const Linear& weight;
    const float* x;
    int64_t stride, rows;  // that there are
    int64_t begin, end;
    float* to;

    template <int R>
    void run() const {
        float* column = to;
        int64_t i = begin;
        const int64_t last = weight.permutation ? i : end < weight.k ? end : weight.k;
        for (; i + register_lanes <= last; i += register_lanes, column += register_lanes * R) {
#pragma GCC unroll 4
            for (int r = 0; r + 4 <= R; r += 4) transpose_rows<4>(x + r * stride + i, stride, rows - r, column + r, R);
            if constexpr (R % 4 != 0) {
                constexpr int r = R / 4 * 4;
                transpose_rows<R % 4>(x + r * stride + i, stride, rows - r, column + r, R);
            }
        }
        for (; i < end; ++i, column += R) {
            const int64_t at = i >= weight.k ? -1 : weight.permutation ? weight.permutation[i] : i;
            for (int r = 0; r < R; ++r) column[r] = r < rows && at >= 0 ? x[r * stride + at] : 0.0f;
        }
    }
};

// x [rows][k] as Blocks wants it. Each slice does a part of inputs.
static void transpose_into_tiles(
    const Linear& weight, const LinearCall& call, Blocks blocks, Tiles tiles, const Slice& slice, float* to) {
    const Range part = slice.part(blocks.inputs, 16);
    for (int64_t block = part.begin / blocks.size * blocks.size; block < part.end; block += blocks.size) {
        const int64_t first = block < part.begin ? part.begin : block, last = block + blocks.count_at(block);
        for (int64_t tile = 0; tile < tiles.count; ++tile) {
            const int64_t row = tile * tiles.height;
            float* inputs = to + blocks.offset(block, tile, tiles) + (first - block) * tiles.height;
            const TransposedTile work{weight, call.x + row * call.x_stride, call.x_stride, call.rows - row, first,
                                      last < part.end ? last : part.end, inputs};
            with_height<max_narrow_rows>(tiles.height, work);
        }
    }
}

template <class Panel>
static void float_piece(const Panel& panel, Blocks blocks, Tiles tiles, Piece piece, const float* x, float* sums) {
    if (reads_once(tiles)) return with_height<max_tile_rows>(tiles.height, WholeTile<Panel>{panel, x, sums});
    alignas(64) float buffer[block_inputs * panel_width];
    for (int64_t i = 0; i < blocks.inputs; i += blocks.size) {
        const int64_t count = blocks.count_at(i);
        const std::byte* next = panel.at(i + count);
        const auto multiply = [&](auto weights, const auto* block) {
            const int64_t asks = count * passes_of(tiles.height);
            for (int64_t tile = 0; tile < piece.tiles; ++tile) {
                const BlockTile<decltype(weights)> work{block, x + blocks.offset(i, piece.first_tile + tile, tiles), count,
                                                        i > 0, Ahead::of_tile(next, next - panel.at(i), tile, asks),
                                                        sums + tile * tiles.height * panel_width};
                with_height<max_narrow_rows>(tiles.height, work);
            }
        };
        if constexpr (Panel::direct_tiles > 0) {
            if (piece.tiles <= Panel::direct_tiles) {
                multiply(typename Panel::Stored(), panel.stored(i));
                continue;
            }
        }
        multiply(F32(), panel.floats(i, count, buffer));
    }
}

template <class Panel>
static void run_float(const Linear& weight, const LinearCall& call, const Slice& slice) {
    if (call.rows <= 0) return;
    const Tiles tiles = float_tiles_of(call.rows);
    const int64_t inputs = Panel::padded(weight.k);
    const Blocks blocks{inputs, reads_once(tiles) ? inputs : even_block(inputs, block_inputs)};
    const float* x = call.x;
    if (call.rows > 1 || inputs != weight.k || weight.permutation) {
        float* transposed = reinterpret_cast<float*>(call.scratch);
        transpose_into_tiles(weight, call, blocks, tiles, slice, transposed);
        slice.barrier();
        x = transposed;
    }
    const Pieces pieces = pieces_of(weight, tiles);
    alignas(64) float sums[max_block_rows * panel_width];
    auto do_piece = [&](int64_t i) {
        Piece piece = pieces.at(i);
        float_piece(Panel(weight, piece.panel), blocks, tiles, piece, x, sums);
        finish(weight, call, piece, tiles, sums);
    };
    if constexpr (Panel::has_pairs) {
        if (call.rows == 1) {
            return slice.each((pieces.count() + 1) / 2, [&](int64_t pair) {
                const int64_t i = 2 * pair;
                if (i + 1 == pieces.count()) return do_piece(i);
                Panel(weight, i).tile_pair(x, sums);
                finish(weight, call, {i, 0, 1}, tiles, sums);
                finish(weight, call, {i + 1, 0, 1}, tiles, sums + panel_width);
            });
        }
    }
    slice.each(pieces.count(), do_piece);
}

}  // namespace segue::SEGUE_ISA
