// Integer weights and indices of tables, decoded to floats: (code - zero) * scale and table[code] * scale.
#pragma once

#include "linear_float.inl"
#include "linear_scales.inl"

namespace segue::SEGUE_ISA {

// A decoder gives the number that input j of a 32-bit word stands for, before its scale.
struct Decode8 {
    static constexpr int inputs = 4;

    static constexpr bool has_middle = false;

    explicit Decode8(const Linear&) {}

    inline fnative value(unative word, int j) const {
        return __builtin_convertvector(bits_of<inative>((word >> (8 * j)) & 255), fnative) - 128.0f;
    }
};

SEGUE_INLINE unative code4(unative word, int j) { return (word >> (j < 4 ? 8 * j : 8 * j - 28)) & 15; }

struct Decode4 {
    static constexpr int inputs = 8;

    static constexpr bool has_middle = true;

    explicit Decode4(const Linear&) {}

    inline fnative value(unative word, int j) const {
        return __builtin_convertvector(bits_of<inative>(code4(word, j)), fnative);
    }
};

// What symmetric codes stand for.
alignas(64) static constexpr float code_table[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

struct DecodeTable {
    static constexpr int inputs = 8;

    static constexpr bool has_middle = false;

    explicit DecodeTable(const Linear& weight) {
        const float* values = weight.table ? weight.table : code_table;
#if defined(__AVX512F__)
        table = load<fnative>(values);
#elif defined(__AVX2__)
        low = load<fnative>(values);
        high = load<fnative>(values + 8);
#else
        table = values;
#endif
    }

    inline fnative value(unative word, int j) const {
#if defined(__AVX512F__)  // which looks at 4 bits of an index only
        unative code = word >> (j < 4 ? 8 * j : 8 * j - 28);
        return bits_of<fnative>(_mm512_permutexvar_ps(bits_of<__m512i>(code), bits_of<__m512>(table)));
#elif defined(__AVX2__)
        __m256i index = bits_of<__m256i>(code4(word, j));
        __m256 below = _mm256_permutevar8x32_ps(bits_of<__m256>(low), index);
        __m256 above = _mm256_permutevar8x32_ps(bits_of<__m256>(high), index);
        return bits_of<fnative>(_mm256_blendv_ps(below, above, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
#else
        unative code = code4(word, j);
        fnative values{};
        for (int i = 0; i < native_lanes; ++i) values[i] = table[code[i]];
        return values;
#endif
    }

#if defined(__AVX512F__)
    fnative table;
#elif defined(__AVX2__)
    fnative low, high;
#else
    const float* table;
#endif
};

template <class Decoder>
class CodePanel {
  public:
    CodePanel(const Linear& weight, int64_t panel)
        : data_(weight.data + panel * words(weight.k) * word_bytes),
          scales_(group_scales(weight, panel)),
          decoder_(weight),
          num_words_(words(weight.k)),
          group_words_(weight.group / Decoder::inputs),
          middle_(weight.kind == WeightKind::i4w && !weight.table ? 8.0f : 0.0f) {}

    static constexpr bool has_pairs = Decoder::inputs == 8;
    static constexpr int direct_tiles = 0;
    static int64_t padded(int64_t k) { return words(k) * Decoder::inputs; }

    template <int R>
    void tile(const float* x, float* sums) const {
        for (int64_t column = 0; column < panel_width; column += tile_columns) {
            fnative acc[R][tile_vectors];
            load_sums<R>(acc, sums, false);
            const float* from = x;
            for (int64_t first = 0, group = 0; first < num_words_; first += group_words_, ++group) {
                const int64_t left = num_words_ - first, end = first + (left < group_words_ ? left : group_words_);
                const Factors of = factors(group, column);
                for (int64_t word = first; word < end; ++word, from += Decoder::inputs * R)
                    add_word<R>(acc, from, word, of, column);
            }
            store_sums<R>(sums + column, acc);
        }
    }

    // One row times this panel and the next: sums [2][panel_width]. Decoding keeps up with memory only where more chains
    // of additions run beside each other than a panel of one row has.
    void tile_pair(const float* x, float* sums) const {
        for (int64_t column = 0; column < panel_width; column += tile_columns) {
            fnative acc[2][1][tile_vectors] = {};
            const CodePanel next = following();
            const float* from = x;
            for (int64_t first = 0, group = 0; first < num_words_; first += group_words_, ++group) {
                const int64_t left = num_words_ - first, end = first + (left < group_words_ ? left : group_words_);
                Factors of[2] = {factors(group, column), next.factors(group, column)};
                for (int64_t word = first; word < end; ++word, from += Decoder::inputs) {
                    add_word<1>(acc[0], from, word, of[0], column);
                    next.template add_word<1>(acc[1], from, word, of[1], column);
                }
            }
            store_sums<1>(sums + column, acc[0]);
            store_sums<1>(sums + panel_width + column, acc[1]);
        }
    }

    const std::byte* at(int64_t begin) const { return data_ + begin / Decoder::inputs * word_bytes; }

    const float* floats(int64_t begin, int64_t count, float* buffer) const {
        float* to = buffer;
        for (int64_t word = begin / Decoder::inputs; word < (begin + count) / Decoder::inputs; ++word) {
            int64_t group = word / group_words_;
            for (int64_t column = 0; column < panel_width; column += native_lanes)
                store_word(word, column, scales_.scale(group * panel_width + column), zero(group, column), to + column);
            to += Decoder::inputs * panel_width;
        }
        return buffer;
    }

  private:
    static constexpr int64_t word_bytes = 4 * panel_width, words_ahead = 16;
    // Asking for words_ahead measured 1.2 times as fast as the processor's own prefetching (nf4, 1 to 8 rows, Zen 5).

    static int64_t words(int64_t k) { return (k + Decoder::inputs - 1) / Decoder::inputs; }

    inline fnative zero(int64_t group, int64_t column) const {
        return scales_.zeros ? scales_.zero(group * panel_width + column) : splat(middle_);
    }

    inline unative word_at(int64_t word, int64_t column) const {
        return load<unative>(data_ + word * word_bytes + 4 * column);
    }

    inline fnative weight_at(unative codes, int j, fnative zero, fnative scale) const {
        fnative value = decoder_.value(codes, j);
        return (Decoder::has_middle ? value - zero : value) * scale;
    }

    void store_word(int64_t word, int64_t column, fnative scale, fnative zero, float* to) const {
        unative codes = word_at(word, column);
#pragma GCC unroll 8
        for (int j = 0; j < Decoder::inputs; ++j)
            store(to + j * panel_width, weight_at(codes, j, zero, scale));
    }

    struct Factors {
        fnative scale[tile_vectors], zero[tile_vectors];
    };

    inline Factors factors(int64_t group, int64_t column) const {
        Factors of;
        for (int c = 0; c < tile_vectors; ++c) {
            of.scale[c] = scales_.scale(group * panel_width + column + c * native_lanes);
            of.zero[c] = zero(group, column + c * native_lanes);
        }
        return of;
    }

    template <int R>
    inline __attribute__((always_inline)) void add_word(
        fnative (&acc)[R][tile_vectors], const float* x, int64_t word, const Factors& of, int64_t column) const {
        unative codes[tile_vectors];
        __builtin_prefetch(data_ + (word + words_ahead) * word_bytes);
        __builtin_prefetch(data_ + (word + words_ahead) * word_bytes + word_bytes / 2);
        for (int c = 0; c < tile_vectors; ++c) codes[c] = word_at(word, column + c * native_lanes);
#pragma GCC unroll 8
        for (int j = 0; j < Decoder::inputs; ++j) {
            fnative w[tile_vectors];
#pragma GCC unroll 4
            for (int c = 0; c < tile_vectors; ++c) w[c] = weight_at(codes[c], j, of.zero[c], of.scale[c]);
            multiply_add<R>(acc, x + j * R, w);
        }
    }

    CodePanel following() const {
        CodePanel next = *this;
        next.data_ += num_words_ * word_bytes;
        const int64_t num_scales = (num_words_ + group_words_ - 1) / group_words_ * panel_width;
        if (scales_.scales) next.scales_.scales += num_scales;
        if (scales_.half_scales) next.scales_.half_scales += num_scales;
        if (scales_.zeros) next.scales_.zeros += num_scales;
        return next;
    }

    const std::byte* data_;
    GroupScales scales_;
    Decoder decoder_;
    int64_t num_words_, group_words_;
    float middle_;
};

}  // namespace segue::SEGUE_ISA
