// Weights stored as floats, 16 or 32 bits. Every output is one chain of multiply-adds over k, in order, whatever the
// tile that it is in: that makes a row's result independent of the others.
#pragma once

#include "linear_tile.inl"

namespace segue::SEGUE_ISA {

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

// Inputs a block: a panel's block of floats and a tile's stay in the first-level cache.
constexpr int64_t block_inputs = 192;

// x [k][R] times `tile_columns` columns of weights [k][panel_width], into or added to sums [R][panel_width].
template <class Weights, int R>
static void float_tile(const typename Weights::Storage* weights, const float* x, int64_t k, bool adds, float* sums) {
    fnative acc[R][tile_vectors];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < tile_vectors; ++c)
            acc[r][c] = adds ? load<fnative>(sums + r * panel_width + c * native_lanes) : fnative{};
    for (int64_t i = 0; i < k; ++i, weights += panel_width, x += R) {
        fnative w[tile_vectors];
#pragma GCC unroll 4
        for (int c = 0; c < tile_vectors; ++c) w[c] = Weights::get(weights + c * native_lanes);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            fnative a = splat(x[r]);
#pragma GCC unroll 4
            for (int c = 0; c < tile_vectors; ++c) acc[r][c] += a * w[c];
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < tile_vectors; ++c) store(sums + r * panel_width + c * native_lanes, acc[r][c]);
}

template <class Weights, int R>
static void float_tile_of_panel(
    const typename Weights::Storage* weights, const float* x, int64_t k, bool adds, float* sums) {
    for (int64_t column = 0; column < panel_width; column += tile_columns)
        float_tile<Weights, R>(weights + column, x, k, adds, sums + column);
}

template <class Weights>
static void any_float_tile(
    int height, const typename Weights::Storage* weights, const float* x, int64_t k, bool adds, float* sums) {
    switch (height) {
        case 1: return float_tile_of_panel<Weights, 1>(weights, x, k, adds, sums);
        case 2: return float_tile_of_panel<Weights, 2>(weights, x, k, adds, sums);
        case 3: return float_tile_of_panel<Weights, 3>(weights, x, k, adds, sums);
        case 4: return float_tile_of_panel<Weights, 4>(weights, x, k, adds, sums);
#if defined(__AVX2__)
        case 5: return float_tile_of_panel<Weights, 5>(weights, x, k, adds, sums);
        case 6: return float_tile_of_panel<Weights, 6>(weights, x, k, adds, sums);
#endif
#if defined(__AVX512F__)
        case 7: return float_tile_of_panel<Weights, 7>(weights, x, k, adds, sums);
        case 8: return float_tile_of_panel<Weights, 8>(weights, x, k, adds, sums);
        case 9: return float_tile_of_panel<Weights, 9>(weights, x, k, adds, sums);
        case 10: return float_tile_of_panel<Weights, 10>(weights, x, k, adds, sums);
        case 11: return float_tile_of_panel<Weights, 11>(weights, x, k, adds, sums);
        case 12: return float_tile_of_panel<Weights, 12>(weights, x, k, adds, sums);
#endif
    }
}

// x [rows][k] → tiles of [k][height], rows beyond the last are zeros. Each slice does a part of k.
static void transpose_into_tiles(const LinearCall& call, int64_t k, Tiles tiles, const Slice& slice, float* to) {
    Range part = slice.part(k, 16);
    for (int64_t tile = 0; tile < tiles.count; ++tile, to += k * tiles.height) {
        for (int r = 0; r < tiles.height; ++r) {
            int64_t row = tile * tiles.height + r;
            const float* x = call.x + row * call.x_stride;
            for (int64_t i = part.begin; i < part.end; ++i) to[i * tiles.height + r] = row < call.rows ? x[i] : 0.0f;
        }
    }
}

// `count` weights as floats: where they are, or in `buffer`.
template <class Weights>
static const float* floats_of(const float* weights, int64_t, float*) {
    return weights;
}

template <class Weights>
static const float* floats_of(const uint16_t* weights, int64_t count, float* buffer) {
    for (int64_t i = 0; i < count; i += native_lanes) store(buffer + i, Weights::get(weights + i));
    return buffer;
}

template <class Weights>
static void float_piece(
    const Linear& weight, const LinearCall& call, Tiles tiles, const float* x, Piece piece) {
    const int64_t k = weight.k;
    alignas(64) float sums[max_block_rows * panel_width];
    const auto* weights =
        reinterpret_cast<const typename Weights::Storage*>(weight.data) + piece.panel * k * panel_width;
    x += piece.first_tile * tiles.height * k;
    const int64_t rows = piece.tiles * tiles.height;
    if (piece.tiles == 1) {
        any_float_tile<Weights>(tiles.height, weights, x, k, false, sums);
    } else {
        alignas(64) float buffer[block_inputs * panel_width];
        for (int64_t i = 0; i < k; i += block_inputs) {
            int64_t inputs = k - i < block_inputs ? k - i : block_inputs;
            const float* block = floats_of<Weights>(weights + i * panel_width, inputs * panel_width, buffer);
            for (int64_t tile = 0; tile < piece.tiles; ++tile)
                any_float_tile<F32>(tiles.height, block, x + (tile * k + i) * tiles.height, inputs, i > 0,
                                    sums + tile * tiles.height * panel_width);
        }
    }
    int64_t first = piece.first_tile * tiles.height, left = call.rows - first;
    finish(weight, call, piece.panel, first, left < rows ? left : rows, sums);
}

template <class Weights>
static void run_float(const Linear& weight, const LinearCall& call, const Slice& slice) {
    if (call.rows <= 0) return;
    Tiles tiles = tiles_of(call.rows);
    const float* x = call.x;
    if (call.rows > 1) {
        float* transposed = reinterpret_cast<float*>(call.scratch);
        transpose_into_tiles(call, weight.k, tiles, slice, transposed);
        slice.barrier();
        x = transposed;
    }
    Pieces pieces = pieces_of(weight, tiles);
    Range part = slice.part(pieces.count());
    for (int64_t i = part.begin; i < part.end; ++i) float_piece<Weights>(weight, call, tiles, x, pieces.at(i));
}

}  // namespace segue::SEGUE_ISA
