// One piece of attention: some queries of a sequence, some of its heads, some of its keys.
#pragma once

#include "attention_pairs.inl"
#include "attention_product.inl"
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
// keys and values are. Not without grouped heads, where a decode's single rows, which are not packed, must get what a
// prompt's get.
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

// Asks for rows [begin, end) of a head: they may lie too far apart for the processor to guess the next.
SEGUE_INLINE void prefetch(const AttentionCall& call, CacheKind kind, const Head& head, int64_t begin, int64_t end) {
    const int64_t bytes = (head.is_keys ? call.spec.key_dim : call.spec.value_dim) * element_bytes(kind);
    const Rows rows = rows_of(call, kind, head);
    for (int64_t i = begin; i < end; ++i)
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(rows.at(i) + at, 0, 3);
    if (kind == CacheKind::i8) __builtin_prefetch(rows.scales + rows.places[begin], 0, 3);  // by heads: a line of 16
}

// Rows [begin, end) of the job, all of one head of the keys, against a packed tile.
template <class Numbers>
static void attend_strip(const AttentionCall& call, const Tile& tile, const Workspace& memory, int64_t begin,
                         int64_t end) {
    int64_t dim = call.spec.key_dim, value_dim = padded(call.spec.value_dim), rows = end - begin;
    if (memory.rows[end - 1].last < tile.begin || memory.rows[begin].first >= tile.begin + tile.count) return;
    const int64_t seen = memory.rows[end - 1].last - tile.begin + 1, keys = seen < tile.count ? seen : tile.count;
    float kept[weighed_rows];
    multiply<Numbers>({memory.queries + begin * dim, dim, memory.keys, tile_keys, dim / Numbers::count, memory.scores,
                       tile_keys, nullptr},
                      rows, (keys + register_lanes - 1) / register_lanes * register_lanes);
    weigh(call.spec, memory.rows + begin, rows, tile.begin, keys, memory.scores, memory.largest[0] + begin,
          memory.sum[0] + begin, kept);
    for (int64_t r = 0; r < rows; ++r) Numbers::from_floats(memory.scores + r * tile_keys, tile_keys);
    multiply<Numbers>({memory.scores, tile_keys, memory.values, value_dim, (keys + Numbers::count - 1) / Numbers::count,
                       memory.out[0] + begin * value_dim, value_dim, kept},
                      rows, value_dim);
}

constexpr int64_t heads_ahead = 2;

// A job against a tile; `next`: the tile after it, or itself.
struct JobOfTile {
    const AttentionCall& call;
    const Job& job;
    const Tile &tile, &next;
    const Workspace& memory;
    const bool paired;

    template <CacheKind kind>
    void run() const {
        const int64_t rows_a_head = (job.query_end - job.query_begin) * group_of(call.spec);
        if (rows_a_head == 1) {
            for (int64_t head = job.head_begin; head < job.head_end; head += attention::strip_rows)
                attend_heads<kind>(head, job.head_end - head < attention::strip_rows ? job.head_end
                                                                                    : head + attention::strip_rows);
        } else {
            for (int64_t head = job.head_begin; head < job.head_end; ++head)
                attend_head<kind>(head, (head - job.head_begin) * rows_a_head, rows_a_head);
        }
    }

    // What comes after a head.
    Head after(int64_t head, bool is_keys) const {
        return head + 1 == job.head_end ? Head{next, job.head_begin, is_keys} : Head{tile, head + 1, is_keys};
    }

    // One row a head, as in a decode without grouped heads: nothing is used twice, so nothing is packed. A register's
    // keys of all heads come before the next ones: that is how a cache by heads lies in memory, and one head's chain of
    // additions hides another's.
    template <CacheKind kind>
    void attend_heads(int64_t begin, int64_t end) const {
        const int64_t first = begin - job.head_begin, count = end - begin;
        const int64_t dim = call.spec.key_dim, value_dim = call.spec.value_dim;
        const Scoring& row = memory.rows[first];
        if (row.last < tile.begin || row.first >= tile.begin + tile.count) return;
        float kept[weighed_rows];
        for (int64_t key = 0; key < tile.count; key += register_lanes)
            for (int64_t i = 0; i < count; ++i) {
                prefetch_ahead<kind>({tile, begin + i, true}, key, begin, end);
                multiply_rows<kind>(memory.queries + (first + i) * dim, rows_of(call, kind, {tile, begin + i, true}), key,
                                    dim, memory.scores + i * tile_keys);
            }
        weigh(call.spec, memory.rows + first, count, tile.begin, tile.count, memory.scores, memory.largest[0] + first,
              memory.sum[0] + first, kept);
        for (int64_t key = 0; key < tile.count; key += register_lanes) {
            const int64_t last = key + register_lanes < tile.count ? key + register_lanes : tile.count;
            for (int64_t i = 0; i < count; ++i) {
                prefetch_ahead<kind>({tile, begin + i, false}, key, begin, end);
                add_rows<kind>(memory.scores + i * tile_keys, rows_of(call, kind, {tile, begin + i, false}), {key, last},
                               value_dim, key == 0 ? kept[i] : 1.0f, memory.out[0] + (first + i) * padded(value_dim));
            }
        }
    }

    // Asks for the register's rows that come `heads_ahead` after those of `head` from `key` on: those of heads
    // [begin, end), then the next register's, the values after the keys, the following tile after the values.
    // Against the processor's own prefetching a decode of 16 streams is 1.5 times as fast with it (Zen 5). Inlined always:
    // a call of a function that does nothing but prefetch has no effects for GCC, which drops it.
    template <CacheKind kind>
    __attribute__((always_inline)) void prefetch_ahead(const Head& head, int64_t key, int64_t begin, int64_t end) const {
        int64_t index = head.index + heads_ahead;
        if (index < end) return prefetch(call, kind, {tile, index, head.is_keys}, key, key + register_lanes);
        index = begin + (index - end) % (end - begin), key += register_lanes;
        if (key < tile.count) return prefetch(call, kind, {tile, index, head.is_keys}, key, key + register_lanes);
        prefetch(call, kind, {head.is_keys ? tile : next, index, !head.is_keys}, 0, register_lanes);
    }

    // Rows of one head, from `begin` on.
    template <CacheKind kind>
    void attend_head(int64_t head, int64_t begin, int64_t count) const {
        const Head keys = after(head, true), values = after(head, false);
        // What comes next is asked for bit by bit: many rows would wait for it all at once.
        const int64_t strips = (count + attention::strip_rows - 1) / attention::strip_rows;
        const bool is_early = strips == 1;
        if (is_early) prefetch(call, kind, keys, 0, tile_keys);
        pack_keys<kind>(rows_of(call, kind, {tile, head, true}));
        if (is_early) prefetch(call, kind, values, 0, tile_keys);
        pack_values<kind>(rows_of(call, kind, {tile, head, false}));
        for (int64_t i = 0; i < strips; ++i) {
            const int64_t first = tile_keys * i / strips, last = tile_keys * (i + 1) / strips;
            if (!is_early) prefetch(call, kind, keys, first, last);
            if (!is_early) prefetch(call, kind, values, first, last);
            const int64_t row = i * attention::strip_rows, left = count - row;
            const int64_t end = begin + row + (left < attention::strip_rows ? left : attention::strip_rows);
            (paired ? attend_strip<Pairs> : attend_strip<Floats>)(call, tile, memory, begin + row, end);
        }
    }

    template <CacheKind kind>
    void pack_keys(const Rows& rows) const {
        if (paired) return pack_key_pairs(rows, call.spec.key_dim, memory.keys);
        pack_transposed<kind>(rows, call.spec.key_dim, memory.keys);
    }

    template <CacheKind kind>
    void pack_values(const Rows& rows) const {
        if (paired) return pack_value_pairs(rows, tile.count, call.spec.value_dim, memory.values);
        pack_rows<kind>(rows, tile.count, call.spec.value_dim, memory.values);
    }
};

// The values' weighted mean, the sink's share of the weight left out.
static void finish_row(const AttentionCall& call, const View& view, Row row, const Running& running) {
    const AttentionSpec& spec = call.spec;
    float sum = *running.sum, kept = 1;
    if (spec.sinks != nullptr && sum > 0) {
        float sink = spec.sinks[row.head], largest = *running.largest > sink ? *running.largest : sink;
        kept = exp_of_difference(*running.largest, largest);
        sum = sum * kept + exp_of_difference(sink, largest);
    }
    float factor = sum == 0 ? 0 : kept / sum;
    float* out = call.out + (view.first_row + row.query) * call.out_stride + row.head * spec.value_dim;
    for (int64_t d = 0; d < spec.value_dim; d += register_lanes)
        store_first(out + d, load<f32xr>(running.out + d) * factor, spec.value_dim - d);
}

static void keep_partial(const AttentionCall& call, const View& view, const Job& job, const Workspace& memory,
                         float* partials) {
    int64_t value_dim = padded(call.spec.value_dim), size = attention::partial_floats(call.spec);
    int64_t rows_a_head = view.num_queries * group_of(call.spec), rows = rows_of(call, job);
    float* to = partials + job.keys.offset +
                (job.keys.index * call.spec.num_heads * view.num_queries + job.head_begin * rows_a_head) * size;
    for (int64_t r = 0; r < rows; ++r, to += size) {
        memcpy(to, memory.out[0] + r * value_dim, static_cast<size_t>(value_dim) * sizeof(float));
        to[value_dim] = memory.largest[0][r], to[value_dim + 1] = memory.sum[0][r];
    }
}

static void attend_keys(const AttentionCall& call, const View& view, const Job& job, Range keys,
                        const Workspace& memory) {
    reset(memory, 0, rows_of(call, job), padded(call.spec.value_dim));
    Tile tiles[2];
    const bool paired = is_paired(call, view);
    int64_t begin = keys.begin / tile_keys * tile_keys;
    if (begin < keys.end) find_tile(call, view, begin, keys.end, &tiles[0]);
    for (int now = 0; begin < keys.end; begin += tile_keys, now = 1 - now) {
        bool is_last = begin + tile_keys >= keys.end;
        if (!is_last) find_tile(call, view, begin + tile_keys, keys.end, &tiles[1 - now]);
        with_kind(kind_of(call, view), JobOfTile{call, job, tiles[now], tiles[is_last ? now : 1 - now], memory, paired});
    }
}

SEGUE_INLINE void exchange(float* (&pair)[2]) {
    float* first = pair[0];
    pair[0] = pair[1], pair[1] = first;
}

static void run_job(const AttentionCall& call, const View& view, const Job& job, const Slice& slice) {
    Workspace memory = workspace_of(call, slice);
    int64_t rows = rows_of(call, job), value_dim = padded(call.spec.value_dim);
    prepare_rows(call, view, job, memory);
    Range seen = keys_seen(call.spec, view, job.query_begin, job.query_end);
    int64_t begin = seen.begin > job.keys.begin ? seen.begin : job.keys.begin;
    int64_t end = seen.end < job.keys.end ? seen.end : job.keys.end;
    if (job.keys.num_splits > 1) {
        attend_keys(call, view, job, {begin, end}, memory);
        return keep_partial(call, view, job, memory, partials_of(call, slice));
    }
    bool is_first = true;
    do {
        int64_t next = (begin / attention::split_keys + 1) * attention::split_keys;
        attend_keys(call, view, job, {begin, next < end ? next : end}, memory);
        // The sums so far are in out[1], but after the first split.
        for (int64_t r = 0; r < rows && !is_first; ++r)
            merge(running_of(memory, 1, r, value_dim), running_of(memory, 0, r, value_dim), value_dim);
        if (is_first) {
            exchange(memory.out), exchange(memory.largest), exchange(memory.sum);
        }
        is_first = false;
        begin = next;
    } while (begin < end);
    for (int64_t r = 0; r < rows; ++r)
        finish_row(call, view, row_of(call, job, r), running_of(memory, 1, r, value_dim));
}

}  // namespace segue::SEGUE_ISA
