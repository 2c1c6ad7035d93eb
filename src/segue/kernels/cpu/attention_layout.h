// How attention divides its work, and where its scratch memory holds what. Results depend on `tile_keys` and
// `split_keys` alone: every row meets its keys in tiles and splits that begin at multiples of them.
#pragma once

#include "attention.h"

namespace segue::attention {

constexpr int64_t tile_keys = 64;     // keys multiplied at once
constexpr int64_t split_keys = 512;   // keys after which a row's running sums are merged: what slices can share out
constexpr int64_t strip_rows = 24;    // rows whose scores are in the nearest cache together
constexpr int64_t small_queries = 8;  // sequences of up to this many queries are shared out by heads and splits
constexpr int64_t block_rows = 256;   // longer ones by heads and blocks of so many rows (a row: a query's head)

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

// Of one slice, in floats.
struct Layout {
    int64_t keys, wide, values, scores, queries, out[2], stats[2], total;
};

SEGUE_LAYOUT Layout layout_of(const AttentionSpec& spec) {
    Layout at{};
    int64_t rows = max_rows(spec), dim = padded(spec.key_dim), value_dim = padded(spec.value_dim);
    at.wide = at.keys + dim * tile_keys;
    at.values = at.wide + tile_keys * dim;
    at.scores = at.values + tile_keys * value_dim;
    at.queries = at.scores + strip_rows * tile_keys;
    at.out[0] = at.queries + padded(rows * spec.key_dim);
    at.out[1] = at.out[0] + rows * value_dim;
    at.stats[0] = at.out[1] + rows * value_dim;
    at.stats[1] = at.stats[0] + padded(2 * rows);
    at.total = at.stats[1] + padded(2 * rows);
    return at;
}

#undef SEGUE_LAYOUT

}  // namespace segue::attention
