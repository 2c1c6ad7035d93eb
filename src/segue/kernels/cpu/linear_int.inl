// Integer weights times activations rounded to int8, with one scale a row and group of inputs. Sums of a group are
// exact integers; groups are added as floats in order, so that a row's result is independent of its tile.
#pragma once

#include "linear_quantize.inl"
#include "linear_scales.inl"
#include "linear_tile.inl"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace segue::SEGUE_ISA {

// Codes of 4 bits, as bytes below 16.
struct Codes4 {
    static constexpr int steps = 2;         // groups of 4 inputs a 32-bit word
    static constexpr int32_t middle = 8;    // what the stored codes are too large by where there are no zeros
    typedef unative Prepared;

    SEGUE_INLINE Prepared prepare(unative word, int step) { return (step == 0 ? word : word >> 4) & 0x0f0f0f0f; }

    // sums + the dot products of 4 bytes each.
    SEGUE_INLINE inative dot(inative sums, Prepared w, int32_t x) {
#if defined(__AVX512VNNI__)
        return bits_of<inative>(
            _mm512_dpbusd_epi32(bits_of<__m512i>(sums), bits_of<__m512i>(w), _mm512_set1_epi32(x)));
#elif defined(__AVX512BW__)
        __m512i pairs = _mm512_maddubs_epi16(bits_of<__m512i>(w), _mm512_set1_epi32(x));
        return sums + bits_of<inative>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
        __m256i pairs = _mm256_maddubs_epi16(bits_of<__m256i>(w), _mm256_set1_epi32(x));
        return sums + bits_of<inative>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#elif defined(__SSE2__)
        __m128i weights = bits_of<__m128i>(w), odd = _mm_set1_epi32(x);
        __m128i even = _mm_srai_epi16(_mm_slli_epi16(odd, 8), 8);
        odd = _mm_srai_epi16(odd, 8);
        __m128i low = _mm_madd_epi16(_mm_and_si128(weights, _mm_set1_epi16(255)), even);
        return sums + bits_of<inative>(_mm_add_epi32(low, _mm_madd_epi16(_mm_srli_epi16(weights, 8), odd)));
#else
        for (int j = 0; j < 4; ++j)
            sums += bits_of<inative>((w >> (8 * j)) & 255) * static_cast<int32_t>(static_cast<int8_t>(x >> (8 * j)));
        return sums;
#endif
    }
};

// Codes of 8 bits, stored 128 too large, as VNNI wants them. Without VNNI: the sums of two products |code| * ±x fit 16
// bits, those of unsigned codes would not.
struct Codes8 {
    static constexpr int steps = 1;
#if defined(__AVX512VNNI__) || !defined(__AVX2__)
    static constexpr int32_t middle = 128;
    typedef unative Prepared;

    SEGUE_INLINE Prepared prepare(unative word, int) { return word; }

    SEGUE_INLINE inative dot(inative sums, Prepared w, int32_t x) { return Codes4::dot(sums, w, x); }
#elif defined(__AVX512BW__)
    static constexpr int32_t middle = 0;
    struct Prepared {
        __m512i magnitude;
        __mmask64 negative;
    };

    SEGUE_INLINE Prepared prepare(unative word, int) {
        __m512i code = bits_of<__m512i>(word ^ 0x80808080);
        return {_mm512_abs_epi8(code), _mm512_movepi8_mask(code)};
    }

    SEGUE_INLINE inative dot(inative sums, Prepared w, int32_t x) {
        __m512i all = _mm512_set1_epi32(x);
        __m512i signed_x = _mm512_mask_sub_epi8(all, w.negative, _mm512_setzero_si512(), all);
        __m512i pairs = _mm512_maddubs_epi16(w.magnitude, signed_x);
        return sums + bits_of<inative>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
    }
#else
    static constexpr int32_t middle = 0;
    struct Prepared {
        __m256i magnitude, code;
    };

    SEGUE_INLINE Prepared prepare(unative word, int) {
        __m256i code = bits_of<__m256i>(word ^ 0x80808080);
        return {_mm256_abs_epi8(code), code};
    }

    SEGUE_INLINE inative dot(inative sums, Prepared w, int32_t x) {
        __m256i pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(_mm256_set1_epi32(x), w.code));
        return sums + bits_of<inative>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
#endif
};

// One group: x words [steps][R] times words [words][panel_width] of `tile_columns` columns, as exact integers.
template <class Codes, int R>
SEGUE_INLINE void group_sums(const std::byte* data, int64_t words, const int32_t* x, inative (&sums)[R][tile_vectors]) {
    for (int64_t i = 0; i < words; ++i, data += 4 * panel_width) {
        unative word[tile_vectors];
#pragma GCC unroll 4
        for (int c = 0; c < tile_vectors; ++c) word[c] = load<unative>(data + 4 * c * native_lanes);
#pragma GCC unroll 2
        for (int step = 0; step < Codes::steps; ++step, x += R) {
            typename Codes::Prepared w[tile_vectors];
#pragma GCC unroll 4
            for (int c = 0; c < tile_vectors; ++c) w[c] = Codes::prepare(word[c], step);
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                for (int c = 0; c < tile_vectors; ++c) sums[r][c] = Codes::dot(sums[r][c], w[c], x[r]);
        }
    }
}

// All of k for `tile_columns` columns from `column` on → sums [R][panel_width].
template <class Codes, int R>
static void int_tile(const Linear& weight, const std::byte* data, GroupScales scales, const QuantizedTile& x,
                     int64_t column, float* sums) {
    const int64_t group_words = weight.group / (4 * Codes::steps);
    int64_t words = words_of(weight.k, Codes::steps);
    const int32_t* inputs = x.inputs;
    const int32_t offset = weight.zeros ? 0 : Codes::middle;
    data += 4 * column;
    sums += column;
    for (int64_t group = 0; words > 0; ++group, words -= group_words) {
        inative acc[R][tile_vectors];
        const float* x_scales = x.scales + group * R;
        const int32_t* x_sums = x.sums + group * R;
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < tile_vectors; ++c) acc[r][c] = splat(-offset * x_sums[r]);
        int64_t count = words < group_words ? words : group_words;
        group_sums<Codes, R>(data, count, inputs, acc);
        data += count * 4 * panel_width;
        inputs += count * Codes::steps * R;
#pragma GCC unroll 4
        for (int c = 0; c < tile_vectors; ++c) {
            int64_t at = c * native_lanes;
            fnative scale = scales.scale(group * panel_width + column + at);
            fnative zero = scales.zeros ? scales.zero(group * panel_width + column + at) : fnative{};
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r) {
                fnative sum = __builtin_convertvector(acc[r][c], fnative);
                if (scales.zeros) sum = fused(-zero, splat(static_cast<float>(x_sums[r])), sum);
                float* to = sums + r * panel_width + at;
                fnative before = group == 0 ? fnative{} : load<fnative>(to);
                store(to, fused(sum * x_scales[r], scale, before));
            }
        }
    }
}

template <class Codes>
struct IntTile {
    const Linear& weight;
    const std::byte* data;
    GroupScales scales;
    QuantizedTile x;
    float* sums;

    template <int R>
    void run() const {
        for (int64_t column = 0; column < panel_width; column += tile_columns)
            int_tile<Codes, R>(weight, data, scales, x, column, sums);
    }
};

template <class Codes>
static void run_int(const Linear& weight, const LinearCall& call, const Slice& slice) {
    if (call.rows <= 0) return;
    Tiles tiles = tiles_of(call.rows);
    Quantized x = quantized_in(call.scratch, weight, tiles);
    quantize(weight, call, tiles, slice, x);
    slice.barrier();
    Pieces pieces = pieces_of(weight, tiles);
    Range part = slice.part(pieces.count());
    const int64_t panel_bytes = words_of(weight.k, Codes::steps) * 4 * panel_width;
    alignas(64) float sums[max_block_rows * panel_width];
    for (int64_t i = part.begin; i < part.end; ++i) {
        Piece piece = pieces.at(i);
        const std::byte* data = weight.data + piece.panel * panel_bytes;
        GroupScales scales = group_scales(weight, piece.panel);
        for (int64_t tile = 0; tile < piece.tiles; ++tile)
            with_height(tiles.height, IntTile<Codes>{weight, data, scales, x.tile(piece.first_tile + tile),
                                                     sums + tile * tiles.height * panel_width});
        finish(weight, call, piece, tiles, sums);
    }
}

}  // namespace segue::SEGUE_ISA
