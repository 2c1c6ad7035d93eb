// Products of pairs of bfloat16 numbers, two at a time (AVX512-BF16): queries with bfloat16 keys, weights with such values.
// A pair stands where `Product` has a float; its parts are inputs 2i and 2i + 1 of a sum.
#pragma once

#include "attention_layout.h"
#include "attention_product.inl"
#include "attention_rows.inl"

namespace segue::SEGUE_ISA {

#if defined(__AVX512VNNI__)
// As assembler text: compiled whether or not this build's processors have them, run where this one does.
SEGUE_INLINE bool has_pairs() {
    static const bool has = __builtin_cpu_supports("avx512bf16");
    return has;
}

struct Pairs {
    static constexpr int64_t count = 2;

    SEGUE_INLINE f32xr add(f32xr sum, float left, f32xr right) {
        __m512 both = _mm512_set1_ps(left);
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(both), "v"(right));
        return sum;
    }

    // `num` floats, rounded to even, to pairs in their place; num: a multiple of 32.
    SEGUE_INLINE void from_floats(float* numbers, int64_t num) {
        for (int64_t i = 0; i < num; i += 2 * register_lanes) {
            f32xr low = load<f32xr>(numbers + i), high = load<f32xr>(numbers + i + register_lanes), pairs;
            asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(pairs) : "v"(low), "v"(high));
            store(numbers + i / 2, pairs);
        }
    }

    // register_lanes pairs of numbers at `even` and at `odd`, of which there may be none.
    SEGUE_INLINE f32xr joined(const char* even, const char* odd) {
        __m512i both = _mm512_cvtepu16_epi32(load<__m256i>(even));
        if (odd != nullptr)
            both = _mm512_or_si512(both, _mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(odd)), 16));
        return bits_of<f32xr>(both);
    }

    // Dimensions 2i and 2i + 1 of keys.
    template <CacheKind>
    SEGUE_INLINE f32xr keys(const Keys& keys, int64_t i) {
        const char* even = keys.first + 2 * i * keys.step;
        return joined(even, even + keys.step);
    }

    // Elements of rows i and i + 1 from `at` on; of the second zeros where it is not before `end`.
    template <CacheKind, bool, int columns>
    SEGUE_INLINE void values(const Rows& rows, int64_t i, int64_t end, int64_t at, int64_t, f32xr (&out)[columns]) {
#pragma GCC unroll 4
        for (int j = 0; j < columns; ++j, at += register_lanes)
            out[j] = joined(rows.at(i) + 2 * at, i + 1 < end ? rows.at(i + 1) + 2 * at : nullptr);
    }
};

// A whole tile of keys → out [dim / 2, tile_keys].
static void pack_key_pairs(const Rows& rows, int64_t dim, float* out) {
    for (int64_t key = 0; key < tile_keys; key += register_lanes) {
        for (int64_t d = 0; d < dim / 2; d += register_lanes) {
            f32xr block[register_lanes];
#pragma GCC unroll 16
            for (int i = 0; i < register_lanes; ++i) block[i] = load<f32xr>(rows.at(key + i) + 4 * d);
            transpose<1>(block);
#pragma GCC unroll 16
            for (int i = 0; i < register_lanes; ++i) store(out + (d + i) * tile_keys + key, block[i]);
        }
    }
}

// `count` rows of values → out [count / 2 rounded up, dim]; what a last pair lacks is 0.
static void pack_value_pairs(const Rows& rows, int64_t count, int64_t dim, float* out) {
    for (int64_t i = 0; i < count; i += 2, out += dim) {
        for (int64_t d = 0; d < dim; d += register_lanes) {
            f32xr pairs[1];
            Pairs::values<CacheKind::bf16, true>(rows, i, count, d, dim, pairs);
            store(out + d, pairs[0]);
        }
    }
}
#else
SEGUE_INLINE bool has_pairs() { return false; }

// Never called.
typedef Floats Pairs;
SEGUE_INLINE void pack_key_pairs(const Rows&, int64_t, float*) {}
SEGUE_INLINE void pack_value_pairs(const Rows&, int64_t, int64_t, float*) {}
#endif

}  // namespace segue::SEGUE_ISA
