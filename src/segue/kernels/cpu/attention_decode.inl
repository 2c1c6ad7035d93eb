// Products of a decode: the few rows of one query that share a head's keys and values, which are multiplied as they lie in
// memory. Sums have the order of `multiply` of a packed tile: a decode gets the bits that a prompt gets.
#pragma once

#include "attention_pairs.inl"
#include "attention_product.inl"
#include "attention_rows.inl"

namespace segue::SEGUE_ISA {

// Registers of a product's result, as in attention_product.inl: more rows, since a group of heads is often 8.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int decode_rows = 8;
#else
constexpr int decode_rows = 6;
#endif

// Registers of keys, then of their values, of a head that are worked on together. A single row has registers for more:
// float32 1.07 times as fast, 16 bits 1.02 (Zen 4).
constexpr int decode_columns = 2, lone_columns = 4;

// What is read, and what is asked for meanwhile, a line for each that is read: `ahead.at(i + shift)` for row i. Many at
// once would wait for each other, and the products for them. Into the second cache: float32 1.6 times, 16 bits 1.2 times as
// fast as with lines asked into the first (16 streams, Zen 4).
struct Stream {
    Rows rows, ahead;
    int64_t shift;

    // Bytes [begin, end) of a row.
    SEGUE_INLINE void ask(const Stream& s, int64_t i, int64_t begin, int64_t end) {
        for (int64_t at = (begin + 63) / 64 * 64; at < end; at += 64)
            __builtin_prefetch(s.ahead.at(i + s.shift) + at, 0, second_cache);
    }
};

// Queries [rows, dim] and `columns` registers of keys; scores of a row are tile_keys apart.
template <int columns>
struct Asked {
    const float* queries;
    int64_t dim;
    Keys keys[columns];
    const char* ahead[columns];  // lines to ask for, as many as the keys'
    float* scores;
};

// queries · keys, a sum a key in the order of dim, as `multiply` of packed keys gives it.
template <class Numbers, CacheKind kind, int rows, int columns>
static void multiply_keys(const Asked<columns>& p) {
    constexpr int64_t bytes = Numbers::count * register_lanes * element_bytes(kind);
    static_assert(bytes <= 64, "");
    f32xr sums[rows][columns] = {};
    for (int64_t i = 0; i < p.dim / Numbers::count; ++i) {
        f32xr right[columns];
#pragma GCC unroll 4
        for (int j = 0; j < columns; ++j) {
            right[j] = Numbers::template keys<kind>(p.keys[j], i);
            if (i * bytes % 64 == 0) __builtin_prefetch(p.ahead[j] + i * bytes, 0, second_cache);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
            for (int j = 0; j < columns; ++j) sums[r][j] = Numbers::add(sums[r][j], p.queries[r * p.dim + i], right[j]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < columns; ++j) store(p.scores + r * tile_keys + j * register_lanes, sums[r][j]);
}

// Weights [rows, tile_keys] and the values [keys.begin, keys.end) that they are for.
struct Weighted {
    const float* weights;
    const Stream& values;
    Range keys;
    int64_t dim;
    const float* kept;  // [rows]: what `out` is multiplied with before
    float* out;         // [rows, padded dim]
};

template <class Numbers, CacheKind kind, int rows, int columns, bool is_whole>
static void add_columns(const Weighted& p, int64_t column) {
    constexpr int64_t size = element_bytes(kind);
    const int64_t stride = padded(p.dim), end = column + columns * register_lanes;
    float* out = p.out + column;
    f32xr sums[rows][columns];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < columns; ++j)
            sums[r][j] = load<f32xr>(out + r * stride + j * register_lanes) * all(p.kept[r]);
    const float* weights = p.weights + p.keys.begin / Numbers::count;
    for (int64_t i = p.keys.begin; i < p.keys.end; i += Numbers::count, ++weights) {
        f32xr right[columns];
        Numbers::template values<kind, is_whole>(p.values.rows, i, p.keys.end, column, p.dim, right);
        for (int n = 0; n < Numbers::count; ++n) Stream::ask(p.values, i + n, column * size, end * size);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
            for (int j = 0; j < columns; ++j) sums[r][j] = Numbers::add(sums[r][j], weights[r * tile_keys], right[j]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < columns; ++j) store(out + r * stride + j * register_lanes, sums[r][j]);
}

// out [rows, dim] = out * kept + weights · values.
template <class Numbers, CacheKind kind, int rows>
static void add_values(const Weighted& p) {
    constexpr int columns = rows == 1 ? lone_columns : decode_columns;
    int64_t at = 0;
    for (; at + columns * register_lanes <= p.dim; at += columns * register_lanes)
        add_columns<Numbers, kind, rows, columns, true>(p, at);
    for (; at + register_lanes <= p.dim; at += register_lanes) add_columns<Numbers, kind, rows, 1, true>(p, at);
    if (at < p.dim) add_columns<Numbers, kind, rows, 1, false>(p, at);
}

// work.run<rows>(first) for parts [first, first + rows) of `count` rows, as many in each.
template <class Work>
SEGUE_INLINE void for_rows(int64_t count, const Work& work) {
    const int64_t parts = (count + decode_rows - 1) / decode_rows;
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = count * part / parts;
        switch (count * (part + 1) / parts - first) {
            case 1: work.template run<1>(first); break;
            case 2: work.template run<2>(first); break;
            case 3: work.template run<3>(first); break;
            case 4: work.template run<4>(first); break;
            case 5: work.template run<5>(first); break;
            case 6: work.template run<6>(first); break;
#if defined(__AVX512F__) || defined(__aarch64__)
            case 7: work.template run<7>(first); break;
            case 8: work.template run<8>(first); break;
#endif
        }
    }
}

template <class Numbers, CacheKind kind, int columns>
struct ByKeys {
    Asked<columns> p;

    template <int rows>
    void run(int64_t first) const {
        Asked<columns> part = p;
        part.queries += first * p.dim, part.scores += first * tile_keys;
        multiply_keys<Numbers, kind, rows>(part);
    }
};

template <class Numbers, CacheKind kind>
struct ByValues {
    Weighted p;

    template <int rows>
    void run(int64_t first) const {
        Weighted part = p;
        part.weights += first * tile_keys, part.kept += first, part.out += first * padded(p.dim);
        add_values<Numbers, kind, rows>(part);
    }
};

}  // namespace segue::SEGUE_ISA
