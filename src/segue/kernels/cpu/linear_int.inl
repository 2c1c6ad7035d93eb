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

// Steps a block: 16 KiB of 8-bit codes.
constexpr int64_t block_steps = 128;

// x words [words * steps][R] times `words` words of `columns_of` R columns, as exact integers.
template <class Codes, int R, int V>
SEGUE_INLINE void add_products(
    const std::byte* data, int64_t words, const int32_t* x, Ahead& ahead, inative (&sums)[R][V]) {
    for (int64_t i = 0; i < words; ++i, data += 4 * panel_width) {
        unative word[V];
        ahead.ask<R>();
#pragma GCC unroll 8
        for (int c = 0; c < V; ++c) word[c] = load<unative>(data + 4 * c * native_lanes);
#pragma GCC unroll 2
        for (int step = 0; step < Codes::steps; ++step, x += R) {
            typename Codes::Prepared w[V];
#pragma GCC unroll 8
            for (int c = 0; c < V; ++c) w[c] = Codes::prepare(word[c], step);
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int c = 0; c < V; ++c) sums[r][c] = Codes::dot(sums[r][c], w[c], x[r]);
        }
    }
}

// Part of a panel and a tile: steps [begin, end), whole groups or a part of one.
struct IntPart {
    const std::byte* data;  // from `begin` on
    const int32_t* x;       // alike
    GroupScales scales;     // of the panel
    const float* x_scales;  // of the tile
    const int32_t* x_offsets;
    int64_t begin, end, group_steps, last;  // last: where the last group ends
    bool has_zeros;
    Ahead ahead;
    float* sums;        // [R][panel_width]
    int32_t* partials;  // alike, sums of a group that is not yet whole
};

// One group's sums to floats, added to those of the groups before it. What the codes are too large by is taken off here:
// sums that began with it took 1.08 times as long (groups of 64, Zen 5).
template <class Codes, int R, int V>
SEGUE_INLINE void add_group(
    const IntPart& part, int64_t group, int64_t column, const inative (&acc)[R][V]) {
    fnative scale[V], zero[V] = {};
#pragma GCC unroll 8
    for (int c = 0; c < V; ++c) {
        const int64_t at = group * panel_width + column + c * native_lanes;
        scale[c] = part.scales.scale(at);
        if (part.has_zeros) zero[c] = part.scales.zero(at);
    }
    float* to = part.sums + column;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r, to += panel_width) {
        const fnative x_scale = splat(part.x_scales[group * R + r]);
        const int32_t offset = part.x_offsets[group * R + r];
#pragma GCC unroll 8
        for (int c = 0; c < V; ++c) {
            inative sum = acc[r][c];
            if (Codes::middle != 0 && !part.has_zeros) sum += splat(offset);
            fnative product = __builtin_convertvector(sum, fnative);
            if (part.has_zeros) product = fused(-zero[c], splat(bits_of<float>(offset)), product);
            float* at = to + c * native_lanes;
            store(at, fused(product * x_scale, scale[c], load<fnative>(at)));
        }
    }
}

// Into `acc`: zeros, or the sums of a group that goes on.
template <int R, int V>
SEGUE_INLINE void begin_group(const IntPart& part, bool continues, int64_t column, inative (&acc)[R][V]) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < V; ++c)
            acc[r][c] = continues ? load<inative>(part.partials + r * panel_width + column + c * native_lanes) : inative{};
}

template <class Codes, int R>
static void int_tile(const IntPart& part, int64_t column, Ahead& next_lines) {
    constexpr int V = vectors_of(R);
    const std::byte* data = part.data + 4 * column;
    const int32_t* x = part.x;
    Ahead ahead = next_lines;
    if (part.begin == 0) {
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < V; ++c)
                store(part.sums + r * panel_width + column + c * native_lanes, fnative{});
    }
    int64_t step = part.begin, group = step / part.group_steps, begin = group * part.group_steps;
    for (; step < part.end; ++group, begin += part.group_steps) {
        const int64_t whole = begin + part.group_steps, end = whole < part.end ? whole : part.end;
        const int64_t words = (end - step) / Codes::steps;
        inative acc[R][V];
        begin_group<R>(part, step > begin, column, acc);
        add_products<Codes, R>(data, words, x, ahead, acc);
        data += words * 4 * panel_width;
        x += (end - step) * R;
        step = end;
        if (end == whole || end == part.last) {
            add_group<Codes, R>(part, group, column, acc);
            continue;
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int c = 0; c < V; ++c)
                store(part.partials + r * panel_width + column + c * native_lanes, acc[r][c]);
    }
    next_lines = ahead;
}

template <class Codes>
struct IntTile {
    const IntPart& part;

    template <int R>
    void run() const {
        Ahead ahead = part.ahead;
        for (int64_t column = 0; column < panel_width; column += columns_of(R)) int_tile<Codes, R>(part, column, ahead);
    }
};

// Blocks of whole groups, or groups of whole and parts of blocks; all steps in one where they are read once.
static inline Blocks int_blocks(const Linear& weight, Tiles tiles) {
    const int64_t steps = steps_of(weight.k), group = weight.group / 4;
    if (reads_once(tiles)) return {steps, steps};
    const int64_t even = even_block(steps, block_steps), most = even + group - 1;
    if (group >= even) return {steps, even};
    return {steps, (most < block_steps ? most : block_steps) / group * group};
}

// The bytes of a panel's step.
template <class Codes>
constexpr int64_t step_bytes = 4 * panel_width / Codes::steps;

template <class Codes>
static void int_piece(const Linear& weight, const Quantized& x, Piece piece, float* sums) {
    alignas(64) int32_t partials[max_block_rows * panel_width];
    // Codes of 8 bits end at whole words of 4 inputs.
    const int64_t steps = Codes::steps == 1 ? (weight.k + 3) / 4 : x.blocks.inputs;
    const std::byte* data = weight.data + piece.panel * steps * step_bytes<Codes>;
    const Blocks& blocks = x.blocks;
    const int height = x.tiles.height;
    for (int64_t begin = 0; begin < steps; begin += blocks.size) {
        const int64_t end = begin + blocks.size < steps ? begin + blocks.size : steps;
        const int64_t num_bytes = (end - begin) * step_bytes<Codes>;
        const bool in_blocks = !reads_once(x.tiles);
        for (int64_t tile = 0; tile < piece.tiles; ++tile) {
            const int64_t at = x.group_offset(0, piece.first_tile + tile), offset = tile * height * panel_width;
            const IntPart part{data,
                               x.words_of(begin, piece.first_tile + tile),
                               group_scales(weight, piece.panel),
                               x.scales + at,
                               x.offsets + at,
                               begin,
                               end,
                               weight.group / 4,
                               steps,
                               weight.zeros != nullptr,
                               in_blocks ? Ahead::of_tile(data + num_bytes, num_bytes, tile,
                                                          (end - begin) / Codes::steps * passes_of(height))
                                         : Ahead::of_panel(data, 4 * panel_width),
                               sums + offset,
                               partials + offset};
            with_height<max_tile_rows>(height, IntTile<Codes>{part});
        }
        data += num_bytes;
    }
}

template <class Codes>
static void run_int(const Linear& weight, const LinearCall& call, const Slice& slice) {
    if (call.rows <= 0) return;
    const Tiles tiles = tiles_of(call.rows);
    const Quantized x = quantized_in(call.scratch, weight, int_blocks(weight, tiles), tiles);
    quantize(weight, call, weight.zeros ? 0 : Codes::middle, slice, x);
    slice.barrier();
    const Pieces pieces = pieces_of(weight, tiles);
    alignas(64) float sums[max_block_rows * panel_width];
    slice.each(pieces.count(), [&](int64_t i) {
        const Piece piece = pieces.at(i);
        int_piece<Codes>(weight, x, piece, sums);
        finish(weight, call, piece, tiles, sums);
    });
}

}  // namespace segue::SEGUE_ISA
