// How attention divides its work, and where its scratch memory holds what. Results depend on `tile_keys` and
// `split_keys` alone: every row meets its keys in tiles and splits that begin at multiples of them.
#pragma once

#include "attention.h"

namespace segue::attention {

constexpr int64_t tile_keys = 64;     // keys multiplied at once
constexpr int64_t split_keys = 512;   // keys after which a row's running sums are merged: what slices can share out
constexpr int64_t strip_rows = 24;    // rows whose scores are in the nearest cache together
constexpr int64_t decode_strip = 32;  // the same in a decode, of several heads of keys
constexpr int64_t most_rows = decode_strip > strip_rows ? decode_strip : strip_rows;
constexpr int64_t small_queries = 8;  // sequences of up to this many queries are shared out by splits and heads
constexpr int64_t splits_a_slice = 2;  // pieces that a slice has at least, where there are so many heads
constexpr int64_t block_rows = 264;   // longer ones by heads and blocks of so many rows (a row: a query's head)

#define SEGUE_LAYOUT inline __attribute__((always_inline))

SEGUE_LAYOUT int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }

SEGUE_LAYOUT int64_t group_of(const AttentionSpec& spec) { return spec.num_heads / spec.kv_heads; }

// Queries of a block of a long sequence.
SEGUE_LAYOUT int64_t block_queries(const AttentionSpec& spec) {
    int64_t queries = block_rows / group_of(spec);
    return queries < 1 ? 1 : queries;
}

SEGUE_LAYOUT int64_t max_rows(const AttentionSpec& spec) {
    int64_t small = spec.num_heads * small_queries, block = block_queries(spec) * group_of(spec);
    return small > block ? small : block;
}

// Splits that hold keys which the first of `num_queries` queries, or a later one, sees: [begin, end).
SEGUE_LAYOUT Range splits_of(const AttentionSpec& spec, int64_t num_queries, int64_t num_keys) {
    int64_t first = spec.window > 0 ? num_keys - num_queries - spec.window + 1 : 0;
    return {(first > 0 ? first : 0) / split_keys, (num_keys + split_keys - 1) / split_keys};
}

// A row that is not finished: its weighted values, the largest score, the sum of weights.
SEGUE_LAYOUT int64_t partial_floats(const AttentionSpec& spec) { return padded(spec.value_dim) + 2; }

constexpr int64_t scoring_floats = 6;  // what a row's scores are made with

// Of one slice, in floats.
struct Layout {
    int64_t keys, values, scores, queries, rows, out[2], largest[2], sum[2], total;
};

SEGUE_LAYOUT Layout layout_of(const AttentionSpec& spec) {
    Layout at{};
    int64_t rows = max_rows(spec), dim = padded(spec.key_dim), value_dim = padded(spec.value_dim);
    at.values = at.keys + dim * tile_keys;
    at.scores = at.values + tile_keys * value_dim;
    at.queries = at.scores + most_rows * tile_keys;
    at.rows = at.queries + padded(rows * spec.key_dim);
    int64_t next = at.rows + padded(rows * scoring_floats);
    for (int i = 0; i < 2; ++i) {
        at.out[i] = next;
        at.largest[i] = at.out[i] + rows * value_dim;
        at.sum[i] = at.largest[i] + padded(rows);
        next = at.sum[i] + padded(rows);
    }
    at.total = next;
    return at;
}

#undef SEGUE_LAYOUT

}  // namespace segue::attention
