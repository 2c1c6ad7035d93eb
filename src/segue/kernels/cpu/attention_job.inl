// One piece of attention: some queries of a sequence, some of its heads, some of its keys.
#pragma once

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

    int64_t cost() const { return end - begin + 16; }
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

// A tile of keys: where they and their values begin, in elements, but for the head.
struct Tile {
    int64_t begin, count;
    int64_t keys[tile_keys], values[tile_keys], slots[tile_keys];
};

static void find_tile(const AttentionCall& call, const View& view, int64_t begin, int64_t end, Tile* tile) {
    tile->begin = begin;
    tile->count = end - begin < tile_keys ? end - begin : tile_keys;
    int64_t size = call.cache.block_size, key_row = call.spec.kv_heads * call.spec.key_dim;
    int64_t value_row = call.spec.kv_heads * call.spec.value_dim;
    for (int64_t i = 0; i < tile_keys; ++i) {
        int64_t position = begin + (i < tile->count ? i : 0);  // missing keys are the first one again
        if (view.block_table != nullptr) {
            tile->slots[i] = view.block_table[position / size] * size + position % size;
            tile->keys[i] = tile->slots[i] * key_row, tile->values[i] = tile->slots[i] * value_row;
        } else {
            tile->slots[i] = view.first_row + position;
            tile->keys[i] = tile->slots[i] * call.k_stride, tile->values[i] = tile->slots[i] * call.v_stride;
        }
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
    float* to = memory.queries;
    for (int64_t r = 0; r < rows; ++r, to += dim) {
        Row row = row_of(call, job, r);
        Seen seen = seen_by(call.spec, view, row.query);
        memory.rows[r] = {row.head, view.position(row.query), seen.first, seen.last};
        const float* q = call.q + (view.first_row + row.query) * call.q_stride + row.head * dim;
        for (int64_t d = 0; d < dim; ++d) to[d] = q[d] * call.spec.scale;
    }
}

static void reset(const Workspace& memory, int which, int64_t rows, int64_t value_dim) {
    memset(memory.out[which], 0, static_cast<size_t>(rows * value_dim) * sizeof(float));
    for (int64_t r = 0; r < rows; ++r) memory.largest[which][r] = -__builtin_inff(), memory.sum[which][r] = 0;
}

// What lies behind a tile's offsets.
struct Memory {
    const char *keys, *values;
    CacheKind kind;
    int64_t element;  // bytes

    const char* key(const Tile& tile, int64_t i, int64_t column) const {
        return keys + (tile.keys[i] + column) * element;
    }
    const char* value(const Tile& tile, int64_t i, int64_t column) const {
        return values + (tile.values[i] + column) * element;
    }
};

SEGUE_INLINE Memory memory_of(const AttentionCall& call, const View& view) {
    bool is_packed = view.block_table == nullptr;
    CacheKind kind = is_packed ? CacheKind::f32 : call.cache.kind;
    return {static_cast<const char*>(is_packed ? call.k : call.cache.keys),
            static_cast<const char*>(is_packed ? call.v : call.cache.values), kind, element_bytes(kind)};
}

SEGUE_INLINE void prefetch(const char* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// A tile's head, and the one to be packed after it: rows lie too far apart for the processor to guess the next.
struct Turn {
    const Tile *tile, *next_tile;
    int64_t head, next_head;
};

// Asks for the rows [begin, end) of the tile that comes next.
SEGUE_INLINE void prefetch_keys(const AttentionCall& call, const Memory& memory, const Turn& turn, int64_t begin,
                                int64_t end) {
    int64_t dim = call.spec.key_dim;
    for (int64_t i = begin; i < end; ++i)
        prefetch(memory.key(*turn.next_tile, i, turn.next_head * dim), dim * memory.element);
}

SEGUE_INLINE void prefetch_values(const AttentionCall& call, const Memory& memory, const Turn& turn, int64_t begin,
                                  int64_t end) {
    int64_t dim = call.spec.value_dim;
    for (int64_t i = begin; i < end; ++i)
        prefetch(memory.value(*turn.next_tile, i, turn.next_head * dim), dim * memory.element);
}

SEGUE_INLINE Rows keys_of(const AttentionCall& call, const Memory& memory, const Turn& turn, int64_t count) {
    int64_t dim = call.spec.key_dim, heads = call.spec.kv_heads;
    Rows rows;
    for (int64_t i = 0; i < count; ++i) {
        rows.at[i] = memory.key(*turn.tile, i, turn.head * dim);
        if (memory.kind == CacheKind::i8) rows.scales[i] = call.cache.key_scales[turn.tile->slots[i] * heads + turn.head];
    }
    return rows;
}

SEGUE_INLINE Rows values_of(const AttentionCall& call, const Memory& memory, const Turn& turn, int64_t count) {
    int64_t dim = call.spec.value_dim, heads = call.spec.kv_heads;
    Rows rows;
    for (int64_t i = 0; i < count; ++i) {
        rows.at[i] = memory.value(*turn.tile, i, turn.head * dim);
        if (memory.kind == CacheKind::i8)
            rows.scales[i] = call.cache.value_scales[turn.tile->slots[i] * heads + turn.head];
    }
    return rows;
}

// Rows [begin, end) of the job, all of one head of the keys, against a packed tile.
static void attend_strip(const AttentionCall& call, const Tile& tile, const Workspace& memory, int64_t begin,
                         int64_t end) {
    int64_t dim = call.spec.key_dim, value_dim = padded(call.spec.value_dim), rows = end - begin;
    if (memory.rows[end - 1].last < tile.begin || memory.rows[begin].first >= tile.begin + tile.count) return;
    float kept[weighed_rows];
    multiply({memory.queries + begin * dim, dim, memory.keys, tile_keys, dim, memory.scores, tile_keys, nullptr}, rows,
             tile_keys);
    weigh(call.spec, memory.rows + begin, rows, tile.begin, tile.count, memory.scores, memory.largest[0] + begin,
          memory.sum[0] + begin, kept);
    multiply({memory.scores, tile_keys, memory.values, value_dim, tile.count, memory.out[0] + begin * value_dim,
              value_dim, kept},
             rows, value_dim);
}

// One head of the keys of a job against a tile: all its rows.
struct HeadOfTile {
    const AttentionCall& call;
    const Memory& source;
    const Turn& turn;
    const Workspace& memory;
    int64_t begin, end;

    template <CacheKind kind>
    void run() const {
        return end - begin == 1 ? run_row<kind>() : run_rows<kind>();
    }

    // Of a decode without grouped heads nothing is used twice, so nothing is packed.
    template <CacheKind kind>
    void run_row() const {
        const Tile& tile = *turn.tile;
        const Scoring& row = memory.rows[begin];
        if (row.last < tile.begin || row.first >= tile.begin + tile.count) return;
        int64_t keys = (tile.count + register_lanes - 1) / register_lanes * register_lanes;
        int64_t value_dim = call.spec.value_dim;
        float kept[weighed_rows];
        prefetch_keys(call, source, turn, 0, tile_keys);
        multiply_rows<kind>(memory.queries + begin * call.spec.key_dim, keys_of(call, source, turn, keys), keys,
                            call.spec.key_dim, memory.scores);
        weigh(call.spec, &row, 1, tile.begin, tile.count, memory.scores, memory.largest[0] + begin,
              memory.sum[0] + begin, kept);
        prefetch_values(call, source, turn, 0, tile_keys);
        add_rows<kind>(memory.scores, values_of(call, source, turn, tile.count), tile.count, value_dim, kept[0],
                       memory.out[0] + begin * padded(value_dim));
    }

    template <CacheKind kind>
    void run_rows() const {
        // What comes next is asked for bit by bit: many rows would wait for it all at once.
        const int64_t strips = (end - begin + attention::strip_rows - 1) / attention::strip_rows;
        const bool is_early = strips == 1;
        if (is_early) prefetch_keys(call, source, turn, 0, tile_keys);
        pack_transposed<kind>(keys_of(call, source, turn, tile_keys), call.spec.key_dim, memory.keys);
        if (is_early) prefetch_values(call, source, turn, 0, tile_keys);
        pack_rows<kind>(values_of(call, source, turn, turn.tile->count), turn.tile->count, call.spec.value_dim,
                        memory.values);
        for (int64_t i = 0, r = begin; i < strips; ++i, r += attention::strip_rows) {
            const int64_t first = tile_keys * i / strips, last = tile_keys * (i + 1) / strips;
            if (!is_early) prefetch_keys(call, source, turn, first, last);
            if (!is_early) prefetch_values(call, source, turn, first, last);
            attend_strip(call, *turn.tile, memory, r, r + attention::strip_rows < end ? r + attention::strip_rows : end);
        }
    }
};

static void attend_tile(const AttentionCall& call, const View& view, const Job& job, const Tile& tile, const Tile& next,
                        const Workspace& memory) {
    int64_t rows_a_head = (job.query_end - job.query_begin) * group_of(call.spec);
    Memory source = memory_of(call, view);
    for (int64_t head = job.head_begin, row = 0; head < job.head_end; ++head, row += rows_a_head) {
        bool is_last = head + 1 == job.head_end;
        Turn turn{&tile, is_last ? &next : &tile, head, is_last ? job.head_begin : head + 1};
        with_kind(source.kind, HeadOfTile{call, source, turn, memory, row, row + rows_a_head});
    }
}

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
    int64_t begin = keys.begin / tile_keys * tile_keys;
    if (begin < keys.end) find_tile(call, view, begin, keys.end, &tiles[0]);
    for (int now = 0; begin < keys.end; begin += tile_keys, now = 1 - now) {
        bool is_last = begin + tile_keys >= keys.end;
        if (!is_last) find_tile(call, view, begin + tile_keys, keys.end, &tiles[1 - now]);
        attend_tile(call, view, job, tiles[now], tiles[is_last ? now : 1 - now], memory);
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
