// Rows of keys and values of one head, as a cache or a packed input holds them: read in registers, transposed, multiplied.
#pragma once

#include "attention_layout.h"
#include "native.inl"
#include "transpose.inl"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

using attention::padded;
using attention::tile_keys;

// run.run<kind>(): the kind of a cache as a constant.
template <class Run>
SEGUE_INLINE void with_kind(CacheKind kind, const Run& run) {
    switch (kind) {
        case CacheKind::f32: return run.template run<CacheKind::f32>();
        case CacheKind::f16: return run.template run<CacheKind::f16>();
        case CacheKind::bf16: return run.template run<CacheKind::bf16>();
        case CacheKind::i8: return run.template run<CacheKind::i8>();
    }
}

constexpr int64_t element_bytes(CacheKind kind) {
    return kind == CacheKind::f32 ? 4 : kind == CacheKind::i8 ? 1 : 2;
}

// One head's rows of a tile of keys or values: where they lie, and what the codes of an i8 cache are to be multiplied with.
struct Rows {
    const char* const* of_tile;  // [tile_keys], of the first head
    int64_t offset;              // of this head, in bytes
    const int64_t* places;       // [tile_keys], of the first head's scales
    const float* scales;         // of this head

    const char* at(int64_t i) const { return of_tile[i] + offset; }
    float scale(int64_t i) const { return scales[places[i]]; }
};

template <CacheKind kind>
SEGUE_INLINE f32xr whole_elements(const char* from) {
    if constexpr (kind == CacheKind::f32) return load<f32xr>(from);
    if constexpr (kind == CacheKind::f16) return native_of_f16(reinterpret_cast<const uint16_t*>(from));
    if constexpr (kind == CacheKind::bf16) return native_of_bf16(reinterpret_cast<const uint16_t*>(from));
#if defined(__AVX512F__)
    return bits_of<f32xr>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from))));
#elif defined(__AVX2__)
    return bits_of<f32xr>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))));
#else
    // By way of int32: GCC goes from int8 to float lane by lane.
    typedef int8_t codes __attribute__((vector_size(register_lanes)));
    return __builtin_convertvector(__builtin_convertvector(load<codes>(from), i32xr), f32xr);
#endif
}

// Elements [at, at + register_lanes) of row i as floats; where that is not whole: zeros from `dim` on.
template <CacheKind kind, bool is_whole>
SEGUE_INLINE f32xr elements(const Rows& rows, int64_t i, int64_t at, int64_t dim) {
    constexpr int64_t size = element_bytes(kind);
    const char* from = rows.at(i) + at * size;
    f32xr found;
    if constexpr (is_whole) {
        found = whole_elements<kind>(from);
    } else {
        char rest[register_lanes * size] = {};
        for (int64_t byte = 0; byte < (dim - at) * size; ++byte) rest[byte] = from[byte];
        found = whole_elements<kind>(rest);
    }
    return kind == CacheKind::i8 ? found * all(rows.scale(i)) : found;
}

// register_lanes keys of one head in a cache by dimensions.
struct Keys {
    const char* first;    // the numbers of dimension 0
    int64_t step;         // bytes to those of the next one
    const float* scales;  // i8: of each key

    template <CacheKind kind>
    SEGUE_INLINE f32xr dimension(const Keys& keys, int64_t d) {
        const f32xr found = whole_elements<kind>(keys.first + d * keys.step);
        return kind == CacheKind::i8 ? found * load<f32xr>(keys.scales) : found;
    }
};

// Elements [at, at + register_lanes) of as many rows from `first` on, transposed.
template <CacheKind kind, bool is_whole>
SEGUE_INLINE void transposed(const Rows& rows, int64_t first, int64_t at, int64_t dim,
                             f32xr (&block)[register_lanes]) {
#pragma GCC unroll 16
    for (int i = 0; i < register_lanes; ++i) block[i] = elements<kind, is_whole>(rows, first + i, at, dim);
    transpose<1>(block);
}

// A whole tile → out [dim, tile_keys].
template <CacheKind kind>
static void pack_transposed(const Rows& rows, int64_t dim, float* out) {
    for (int64_t key = 0; key < tile_keys; key += register_lanes) {
        int64_t d = 0;
        f32xr block[register_lanes];
        for (; d + register_lanes <= dim; d += register_lanes) {
            transposed<kind, true>(rows, key, d, dim, block);
#pragma GCC unroll 16
            for (int i = 0; i < register_lanes; ++i) store(out + (d + i) * tile_keys + key, block[i]);
        }
        if (d == dim) continue;
        transposed<kind, false>(rows, key, d, dim, block);
        for (int i = 0; i < dim - d; ++i) store(out + (d + i) * tile_keys + key, block[i]);
    }
}

// `count` rows → out [count, padded dim], zeros at a row's end.
template <CacheKind kind>
static void pack_rows(const Rows& rows, int64_t count, int64_t dim, float* out) {
    for (int64_t i = 0; i < count; ++i, out += padded(dim)) {
        int64_t d = 0;
        for (; d + register_lanes <= dim; d += register_lanes) store(out + d, elements<kind, true>(rows, i, d, dim));
        if (d < dim) store(out + d, elements<kind, false>(rows, i, d, dim)), d += register_lanes;
        for (; d < padded(dim); d += register_lanes) store(out + d, f32xr{});
    }
}

}  // namespace segue::SEGUE_ISA
