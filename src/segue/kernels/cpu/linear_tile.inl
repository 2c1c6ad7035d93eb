// Shapes of the work: rows in tiles of equal height, tiles in blocks; and what is done to finished sums.
#pragma once

#include "activations.inl"
#include "linear.h"
#include "native.inl"

namespace segue::SEGUE_ISA {

// As many sums as registers hold beside the weights and one activation.
#if defined(__AVX512F__)
constexpr int max_tile_rows = 12, tile_columns = 32;
#elif defined(__AVX2__)
constexpr int max_tile_rows = 6, tile_columns = 16;
#else
constexpr int max_tile_rows = 4, tile_columns = 8;
#endif
constexpr int tile_vectors = tile_columns / native_lanes;

// Columns of a tile of few rows: a whole panel, read front to back, where registers hold its sums.
constexpr int max_wide_rows = max_tile_rows * tile_columns * 2 / 3 / panel_width;

// Rows of a tile of few columns: where weights are decoded to floats, that is then done once for so many.
#if defined(__AVX512F__)
constexpr int max_narrow_rows = 16;
#else
constexpr int max_narrow_rows = max_tile_rows;
#endif

constexpr int columns_of(int height) {
    return height <= max_wide_rows ? panel_width : height <= max_tile_rows ? tile_columns : native_lanes;
}

constexpr int vectors_of(int height) { return columns_of(height) / native_lanes; }

// Times that a tile passes through a panel.
constexpr int64_t passes_of(int height) { return panel_width / columns_of(height); }

constexpr int max_block_rows = 192;

struct Tiles {
    int height;     // rows of a tile; the last may have fewer
    int64_t count;  // tiles
};

static inline Tiles tiles_of(int64_t rows) {
    int64_t count = (rows + max_tile_rows - 1) / max_tile_rows;
    return {static_cast<int>((rows + count - 1) / count), count};
}

// Of a product in floats: one or two narrow tiles instead of two or three. 13 to 16 rows of 16-bit weights are 1.15 to 1.3
// times as fast as two tiles, of others 1.0 to 1.1 (Zen 4); of integers 0.9.
static inline Tiles float_tiles_of(int64_t rows) {
    const Tiles wide = tiles_of(rows);
    const int64_t count = (rows + max_narrow_rows - 1) / max_narrow_rows;
    if (count > 2 || count >= wide.count) return wide;
    return {static_cast<int>((rows + count - 1) / count), count};
}

// Whether weights are read once, front to back: one tile that is as wide as a panel.
static inline bool reads_once(Tiles tiles) {
    return tiles.count == 1 && tiles.height <= (tile_columns == panel_width ? max_tile_rows : max_wide_rows);
}

// Else tiles meet a panel block by block, so that a block and a tile's inputs for it stay in the first-level cache.
// Activations are laid out accordingly: [blocks][tiles][inputs of the block][height].
struct Blocks {
    int64_t inputs, size;  // of all, of a block (the last may have fewer)

    int64_t count_at(int64_t begin) const { return inputs - begin < size ? inputs - begin : size; }

    // Where the inputs of the block from `begin` on are, in inputs of all tiles' rows.
    int64_t offset(int64_t begin, int64_t tile, Tiles tiles) const {
        return (begin * tiles.count + tile * count_at(begin)) * tiles.height;
    }
};

// Blocks of nearly equal size: while one is multiplied, as much as itself is asked for ahead. With the last block a
// third of the others, 16 rows of 256 inputs took 1.3 times as long (Zen 5).
static inline int64_t even_block(int64_t inputs, int64_t most) {
    const int64_t blocks = (inputs + most - 1) / most;
    return ((inputs + blocks - 1) / blocks + 7) / 8 * 8;
}

// Lines to ask for while a tile is multiplied, one or two an input: the panel's next block, or what a panel that is read
// once holds a few inputs further on.
struct Ahead {
    const std::byte* line;
    int64_t step;    // 64, 128 where it is two, or 0 where there are none left
    int64_t second;  // 64 where it is two

    // `input_bytes`: 64 or 128. Against the processor's own prefetching: 1.1 to 1.3 times as fast at 4 and 8 rows (Zen 4
    // and 5).
    SEGUE_INLINE Ahead of_panel(const std::byte* data, int64_t input_bytes) {
        return {data + 5120, input_bytes, input_bytes - 64};
    }

    // A tile's part of a block of `num_bytes`; each asks so often.
    SEGUE_INLINE Ahead of_tile(const std::byte* block, int64_t num_bytes, int64_t tile, int64_t asks) {
        const int64_t at = 64 * tile * asks;
        return at < num_bytes ? Ahead{block + at, 64, 0} : Ahead{block, 0, 0};
    }

    // For a tile of R rows, into the second cache: the first one's few requests under way are for what is multiplied now.
    // 4 to 16 rows are 1.05 to 1.2 times as fast as with lines asked into the first (Zen 4). A single row's arithmetic is
    // so short that the processor's own prefetching keeps up with memory; asking beside it made a step of one stream take
    // up to 1.1 times as long (int8, float32; bfloat16 alike).
    template <int R>
    inline void ask() {
        if (R == 1) return;
        __builtin_prefetch(line, 0, second_cache);
        __builtin_prefetch(line + second, 0, second_cache);
        line += step;
    }
};

// The work of a call in pieces of one panel and a block of tiles.
struct Piece {
    int64_t panel, first_tile;
    int tiles;
};

struct Pieces {
    int64_t panels, tiles, block_tiles;

    int64_t count() const { return panels * ((tiles + block_tiles - 1) / block_tiles); }

    Piece at(int64_t index) const {
        int64_t first = index / panels * block_tiles;
        int64_t left = tiles - first;
        return {index % panels, first, static_cast<int>(left < block_tiles ? left : block_tiles)};
    }
};

// Blocks of nearly equal height: slices share pieces out by number.
static inline Pieces pieces_of(const Linear& weight, Tiles tiles) {
    const int64_t most = max_block_rows / tiles.height, blocks = (tiles.count + most - 1) / most;
    return {weight.panels(), tiles.count, (tiles.count + blocks - 1) / blocks};
}

// tile.run<height>(): the number of rows as a constant, so that sums stay in registers. `most`: of narrow tiles, or
// max_tile_rows.
template <int most, class Tile>
static void with_height(int height, const Tile& tile) {
#if defined(__AVX512F__)
    if constexpr (most > max_tile_rows) {
        switch (height) {
            case 13: return tile.template run<13>();
            case 14: return tile.template run<14>();
            case 15: return tile.template run<15>();
            case 16: return tile.template run<16>();
        }
    }
#endif
    switch (height) {
        case 1: return tile.template run<1>();
        case 2: return tile.template run<2>();
        case 3: return tile.template run<3>();
        case 4: return tile.template run<4>();
#if defined(__AVX2__)
        case 5: return tile.template run<5>();
        case 6: return tile.template run<6>();
#endif
#if defined(__AVX512F__)
        case 7: return tile.template run<7>();
        case 8: return tile.template run<8>();
        case 9: return tile.template run<9>();
        case 10: return tile.template run<10>();
        case 11: return tile.template run<11>();
        case 12: return tile.template run<12>();
#endif
    }
}

// One row's sums [panel_width] → `width` outputs of a panel.
template <bool gated, bool adds>
SEGUE_INLINE void finish_row(const float* sums, const f32x16 (&bias)[2], float scale, Activation activation,
                             const float* residual, float* out) {
    f32x16 low = load<f32x16>(sums) * scale + bias[0], high = load<f32x16>(sums + lanes) * scale + bias[1];
    if (activation != Activation::none) {
        low = activate(activation, low);
        if constexpr (!gated) high = activate(activation, high);
    }
    if constexpr (gated) low = low * high;
    if constexpr (adds) {
        low = low + load<f32x16>(residual);
        if constexpr (!gated) high = high + load<f32x16>(residual + lanes);
    }
    store(out, low);
    if constexpr (!gated) store(out + lanes, high);
}

// sums [rows of the piece][panel_width] → its outputs.
template <bool gated, bool adds>
static __attribute__((noinline)) void finish_piece(
    const Linear& weight, const LinearCall& call, Piece piece, Tiles tiles, const float* sums) {
    constexpr int64_t width = gated ? panel_width / 2 : panel_width;
    const int64_t panel = piece.panel, first = piece.first_tile * tiles.height, begin = panel * width;
    int64_t last = first + piece.tiles * tiles.height;
    if (last > call.rows) last = call.rows;
    const int64_t left = weight.outputs() - begin, count = left < width ? left : width;
    f32x16 bias[2] = {};
    if (weight.bias)
        for (int i = 0; i < 2; ++i) bias[i] = load<f32x16>(weight.bias + panel * panel_width + lanes * i);
    float* out = call.out + first * call.out_stride + begin;
    const float* residual = adds ? call.residual + first * call.residual_stride + begin : nullptr;
    for (int64_t row = first; row < last; ++row, sums += panel_width) {
        if (count == width) {
            // Rows lie far apart: the processor does not guess where the next one is written.
            const float* ahead = out + 6 * call.out_stride;
            __builtin_prefetch(ahead, 1);
            __builtin_prefetch(ahead + width - 1, 1);
            finish_row<gated, adds>(sums, bias, call.scale, call.activation, residual, out);
        } else {
            alignas(64) float result[panel_width], added[panel_width] = {};
            for (int64_t i = 0; adds && i < count; ++i) added[i] = residual[i];
            finish_row<gated, adds>(sums, bias, call.scale, call.activation, added, result);
            for (int64_t i = 0; i < count; ++i) out[i] = result[i];
        }
        out += call.out_stride;
        if constexpr (adds) residual += call.residual_stride;
    }
}

SEGUE_INLINE void finish(const Linear& weight, const LinearCall& call, Piece piece, Tiles tiles, const float* sums) {
    if (weight.gated)
        call.residual ? finish_piece<true, true>(weight, call, piece, tiles, sums)
                      : finish_piece<true, false>(weight, call, piece, tiles, sums);
    else
        call.residual ? finish_piece<false, true>(weight, call, piece, tiles, sums)
                      : finish_piece<false, false>(weight, call, piece, tiles, sums);
}

}  // namespace segue::SEGUE_ISA
