// A piece of attention: some queries of a sequence, some of its heads, some of its keys; and where they lie in memory.
#pragma once

#include "attention_pairs.inl"
#include "attention_rows.inl"
#include "attention_scores.inl"

namespace segue::SEGUE_ISA {

using attention::group_of;

// A sequence of a call.
struct View {
    int64_t index, first_row, num_queries, num_keys;
    const int64_t* block_table;  // null: keys are the rows of the queries

    int64_t position(int64_t query) const { return num_keys - num_queries + query; }
};

SEGUE_INLINE View view_of(const AttentionCall& call, int64_t i, bool is_packed) {
    const Sequences& all = call.sequences;
    int64_t begin = all.query_starts[i], count = all.query_starts[i + 1] - begin;
    if (is_packed) return {i, begin, count, count, nullptr};
    return {i, begin, count, all.kv_lens[i], all.block_tables + i * all.table_width};
}

// Keys [begin, end), inside one split or, where it is the only part, of several.
struct Part {
    int64_t begin, end;
    int64_t index, num_splits;  // of the sequence's splits
    int64_t offset;             // of the sequence's partial rows, in floats, where there are several
};

struct Job {
    int64_t head_begin, head_end;    // of keys and values
    int64_t query_begin, query_end;
    Part keys;
};

// Positions of the first and the last key that a query sees.
struct Seen {
    int32_t first, last;
};

SEGUE_INLINE Seen seen_by(const AttentionSpec& spec, const View& view, int64_t query) {
    int64_t position = view.position(query), first = 0, last = view.num_keys - 1;
    if (spec.window > 0 && position - spec.window + 1 > 0) first = position - spec.window + 1;
    if (spec.causal && position < last) last = position;
    return {static_cast<int32_t>(first), static_cast<int32_t>(last)};
}

SEGUE_INLINE Range keys_seen(const AttentionSpec& spec, const View& view, int64_t query_begin, int64_t query_end) {
    int64_t begin = seen_by(spec, view, query_begin).first, end = seen_by(spec, view, query_end - 1).last + 1;
    return {begin, end > begin ? end : begin};
}

// A tile of keys: where the first head's lie, and its values.
struct Tile {
    int64_t begin, count;
    int64_t head_step;  // rows of a head's numbers from one head to the next
    const char *keys[tile_keys], *values[tile_keys];
    int64_t places[tile_keys];  // of the first head's scales, i8
};

SEGUE_INLINE CacheKind kind_of(const AttentionCall& call, const View& view) {
    return view.block_table == nullptr ? CacheKind::f32 : call.cache.kind;
}

static void find_tile(const AttentionCall& call, const View& view, int64_t begin, int64_t end, Tile* tile) {
    const Cache& cache = call.cache;
    const bool is_packed = view.block_table == nullptr;
    const char* keys = is_packed ? reinterpret_cast<const char*>(call.k) : static_cast<const char*>(cache.keys);
    const char* values = is_packed ? reinterpret_cast<const char*>(call.v) : static_cast<const char*>(cache.values);
    const int64_t element = element_bytes(kind_of(call, view));
    const int64_t key_bytes = (is_packed ? call.k_stride : call.spec.key_dim) * element;
    const int64_t value_bytes = (is_packed ? call.v_stride : call.spec.value_dim) * element;
    tile->begin = begin;
    tile->count = end - begin < tile_keys ? end - begin : tile_keys;
    tile->head_step = is_packed ? 1 : cache.head_step();
    int64_t block = is_packed ? 0 : begin / cache.block_size, inside = is_packed ? 0 : begin % cache.block_size;
    for (int64_t i = 0; i < tile->count; ++i) {
        const int64_t row = is_packed ? view.first_row + begin + i : cache.row(view.block_table[block], inside);
        if (!is_packed && ++inside == cache.block_size) ++block, inside = 0;
        tile->keys[i] = keys + row * key_bytes, tile->values[i] = values + row * value_bytes;
        tile->places[i] = row;
    }
    for (int64_t i = tile->count; i < tile_keys; ++i) {  // missing keys are the first one again
        tile->keys[i] = tile->keys[0], tile->values[i] = tile->values[0], tile->places[i] = tile->places[0];
    }
}

// A slice's memory.
struct Workspace {
    float *keys, *values, *scores, *queries;
    Scoring* rows;
    float *out[2], *largest[2], *sum[2];  // of rows: running sums of a split, and of the splits before it
};

SEGUE_INLINE float* aligned(std::byte* memory) {
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
}

static_assert(sizeof(Scoring) == attention::scoring_floats * sizeof(float), "");

SEGUE_INLINE Workspace workspace_of(const AttentionCall& call, const Slice& slice) {
    attention::Layout at = attention::layout_of(call.spec);
    float* base = aligned(call.scratch) + at.total * slice.index;
    return {base + at.keys,
            base + at.values,
            base + at.scores,
            base + at.queries,
            reinterpret_cast<Scoring*>(base + at.rows),
            {base + at.out[0], base + at.out[1]},
            {base + at.largest[0], base + at.largest[1]},
            {base + at.sum[0], base + at.sum[1]}};
}

SEGUE_INLINE float* partials_of(const AttentionCall& call, const Slice& slice) {
    return aligned(call.scratch) + attention::layout_of(call.spec).total * slice.count;
}

SEGUE_INLINE Running running_of(const Workspace& memory, int which, int64_t row, int64_t value_dim) {
    return {memory.out[which] + row * value_dim, memory.largest[which] + row, memory.sum[which] + row};
}

// Whether products are of pairs: a bfloat16 cache as most models have it. Queries and weights are then rounded as its
// keys and values are. Not without grouped heads, where a decode's single rows are multiplied as floats, and must get what
// a prompt's get.
SEGUE_INLINE bool is_paired(const AttentionCall& call, const View& view) {
    const AttentionSpec& spec = call.spec;
    return has_pairs() && kind_of(call, view) == CacheKind::bf16 && group_of(spec) > 1 && spec.key_dim % 32 == 0 &&
           spec.value_dim % 16 == 0;
}

// Rows of a job: by head of the keys, then query, then head of the query's group.
struct Row {
    int64_t query, head;
};

SEGUE_INLINE Row row_of(const AttentionCall& call, const Job& job, int64_t row) {
    int64_t group = group_of(call.spec), queries = job.query_end - job.query_begin;
    int64_t kv_head = job.head_begin + row / (queries * group);
    return {job.query_begin + row / group % queries, kv_head * group + row % group};
}

// The same, of a whole sequence.
SEGUE_INLINE Row row_at(const AttentionCall& call, const View& view, int64_t row) {
    return row_of(call, Job{0, call.spec.kv_heads, 0, view.num_queries, {}}, row);
}

SEGUE_INLINE int64_t rows_of(const AttentionCall& call, const Job& job) {
    return (job.head_end - job.head_begin) * (job.query_end - job.query_begin) * group_of(call.spec);
}

// The job's rows into memory: their queries, scaled, and what their scores are made with.
static void prepare_rows(const AttentionCall& call, const View& view, const Job& job, const Workspace& memory) {
    int64_t rows = rows_of(call, job), dim = call.spec.key_dim;
    const bool paired = is_paired(call, view);
    float* to = memory.queries;
    for (int64_t r = 0; r < rows; ++r, to += dim) {
        Row row = row_of(call, job, r);
        Seen seen = seen_by(call.spec, view, row.query);
        memory.rows[r] = {row.head, view.position(row.query), seen.first, seen.last};
        const float* q = call.q + (view.first_row + row.query) * call.q_stride + row.head * dim;
        for (int64_t d = 0; d < dim; ++d) to[d] = q[d] * call.spec.scale;
        if (paired) Pairs::from_floats(to, dim);
    }
}

static void reset(const Workspace& memory, int which, int64_t rows, int64_t value_dim) {
    memset(memory.out[which], 0, static_cast<size_t>(rows * value_dim) * sizeof(float));
    for (int64_t r = 0; r < rows; ++r) memory.largest[which][r] = -__builtin_inff(), memory.sum[which][r] = 0;
}

// The keys or the values of one head in a tile.
struct Head {
    const Tile& tile;
    int64_t index;
    bool is_keys;
};

SEGUE_INLINE Rows rows_of(const AttentionCall& call, CacheKind kind, const Head& head) {
    const AttentionSpec& spec = call.spec;
    const float* scales = head.is_keys ? call.cache.key_scales : call.cache.value_scales;
    const int64_t step = head.index * head.tile.head_step, dim = head.is_keys ? spec.key_dim : spec.value_dim;
    return {head.is_keys ? head.tile.keys : head.tile.values, step * dim * element_bytes(kind), head.tile.places,
            kind == CacheKind::i8 ? scales + step : nullptr};
}

// Keys [i, i + register_lanes) of a tile in a cache by dimensions, `rows` being a head's; those of missing keys are others.
SEGUE_INLINE Keys keys_of(const AttentionCall& call, CacheKind kind, const Tile& tile, const Rows& rows, int64_t i) {
    const int64_t size = element_bytes(kind), block_size = call.cache.block_size;
    if (i >= tile.count) i = 0;
    // A row stands `slot` rows into its head's block; its number of dimension 0 as many numbers.
    const int64_t slot = (tile.begin + i) % block_size;
    return {rows.at(i) + slot * (1 - call.spec.key_dim) * size, block_size * size,
            kind == CacheKind::i8 ? rows.scales + rows.places[i] : nullptr};
}

// Asks for rows [begin, end) of a head: they may lie too far apart for the processor to guess the next.
SEGUE_INLINE void prefetch(const AttentionCall& call, CacheKind kind, const Head& head, int64_t begin, int64_t end) {
    const int64_t bytes = (head.is_keys ? call.spec.key_dim : call.spec.value_dim) * element_bytes(kind);
    const Rows rows = rows_of(call, kind, head);
    for (int64_t i = begin; i < end; ++i)
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(rows.at(i) + at, 0, 3);
    if (kind == CacheKind::i8) __builtin_prefetch(rows.scales + rows.places[begin], 0, 3);  // by heads: a line of 16
}

}  // namespace segue::SEGUE_ISA
