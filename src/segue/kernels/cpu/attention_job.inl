// A job of attention: its keys tile by tile, then its rows' sums.
#pragma once

#include "attention_decode.inl"
#include "attention_pairs.inl"
#include "attention_product.inl"
#include "attention_view.inl"

namespace segue::SEGUE_ISA {

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
    const bool paired, by_dims;

    template <CacheKind kind>
    void run() const {
        const int64_t queries = job.query_end - job.query_begin, group = group_of(call.spec);
        if (queries == 1 && by_dims && group <= attention::decode_strip)
            return decode<kind>(attention::decode_strip / group);
        for (int64_t head = job.head_begin; head < job.head_end; ++head)
            attend_head<kind>(head, (head - job.head_begin) * queries * group, queries * group);
    }

    // `most` heads at a time.
    template <CacheKind kind>
    void decode(int64_t most) const {
        for (int64_t head = job.head_begin; head < job.head_end; head += most) {
            const int64_t end = job.head_end - head < most ? job.head_end : head + most;
            if (kind == CacheKind::bf16 && paired)
                attend_heads<Pairs, CacheKind::bf16, decode_columns>(head, end);
            else if (group_of(call.spec) == 1)
                attend_heads<Floats, kind, lone_columns>(head, end);
            else
                attend_heads<Floats, kind, decode_columns>(head, end);
        }
    }

    // One query: nothing is used often enough to be packed. Some keys of all heads come before the next ones: that is how
    // a cache by heads lies in memory.
    template <class Numbers, CacheKind kind, int columns>
    void attend_heads(int64_t begin, int64_t end) const {
        const int64_t group = group_of(call.spec), first = (begin - job.head_begin) * group, rows = (end - begin) * group;
        constexpr int64_t step = columns * register_lanes;
        const Scoring& row = memory.rows[first];
        if (row.last < tile.begin || row.first >= tile.begin + tile.count) return;
        float kept[weighed_rows];
        for (int64_t key = 0; key < tile.count; key += step)
            for (int64_t i = 0; i < end - begin; ++i) {
                const Stream keys = stream<kind, step>({tile, begin + i, true}, key, begin, end);
                const int64_t dim = call.spec.key_dim;
                ByKeys<Numbers, kind, columns> work{{memory.queries + (first + i * group) * dim, dim, {}, {},
                                                     memory.scores + i * group * tile_keys + key}};
                for (int j = 0; j < columns; ++j) {
                    const int64_t at = key + j * register_lanes;
                    work.p.keys[j] = keys_of(call, kind, tile, keys.rows, at);
                    work.p.ahead[j] = keys.ahead.at(at + keys.shift);
                }
                if constexpr (columns == lone_columns)
                    work.template run<1>(0);
                else
                    for_rows(group, work);
            }
        weigh(call.spec, memory.rows + first, rows, tile.begin, tile.count, memory.scores, memory.largest[0] + first,
              memory.sum[0] + first, kept);
        for (int64_t r = 0; r < rows; ++r) Numbers::from_floats(memory.scores + r * tile_keys, tile_keys);
        const int64_t value_dim = call.spec.value_dim;
        for (int64_t key = 0; key < tile.count; key += step) {
            const int64_t last = key + step < tile.count ? key + step : tile.count;
            for (int64_t i = 0, r = 0; i < end - begin; ++i, r += group) {
                const Stream values = stream<kind, step>({tile, begin + i, false}, key, begin, end);
                for_rows(group, ByValues<Numbers, kind>{{memory.scores + r * tile_keys, values, {key, last}, value_dim,
                                                         kept + r, memory.out[0] + (first + r) * padded(value_dim)}});
            }
            for (float& factor : kept) factor = 1;
        }
    }

    // A head's rows for the `step` keys at `key`, and those that come `heads_ahead` later: of heads [begin, end), then at
    // the next keys, the values after the keys, the following tile after the values.
    // Against the processor's own prefetching a decode of 16 streams is 1.5 times as fast with it (Zen 5). Inlined always:
    // a call of a function that does nothing but prefetch has no effects for GCC, which drops it.
    template <CacheKind kind, int64_t step>
    __attribute__((always_inline)) Stream stream(const Head& head, int64_t key, int64_t begin, int64_t end) const {
        const int64_t place = head.index - begin + heads_ahead, heads = end - begin;
        int64_t then = key + place / heads * step;
        const bool is_over = then >= tile.count;
        if (is_over) then -= (tile.count + step - 1) / step * step;
        const Tile& where = is_over && !head.is_keys ? next : tile;
        const Rows rows = rows_of(call, kind, {where, begin + place % heads, head.is_keys != is_over});
        if (kind == CacheKind::i8) __builtin_prefetch(rows.scales + rows.places[then], 0, 3);  // by heads: a line of 16
        return {rows_of(call, kind, head), rows, then - key};
    }

    // What comes after a head.
    Head after(int64_t head, bool is_keys) const {
        return head + 1 == job.head_end ? Head{next, job.head_begin, is_keys} : Head{tile, head + 1, is_keys};
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
        if (by_dims) return paired ? copy_keys<Pairs, CacheKind::bf16>(rows) : copy_keys<Floats, kind>(rows);
        if (paired) return pack_key_pairs(rows, call.spec.key_dim, memory.keys);
        pack_transposed<kind>(rows, call.spec.key_dim, memory.keys);
    }

    template <class Numbers, CacheKind kind>
    void copy_keys(const Rows& rows) const {
        for (int64_t key = 0; key < tile_keys; key += register_lanes) {
            const Keys keys = keys_of(call, kind, tile, rows, key);
            for (int64_t i = 0; i < call.spec.key_dim / Numbers::count; ++i)
                store(memory.keys + i * tile_keys + key, Numbers::template keys<kind>(keys, i));
        }
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
    const bool paired = is_paired(call, view), by_dims = view.block_table != nullptr && call.cache.keys_by_dims;
    int64_t begin = keys.begin / tile_keys * tile_keys;
    if (begin < keys.end) find_tile(call, view, begin, keys.end, &tiles[0]);
    for (int now = 0; begin < keys.end; begin += tile_keys, now = 1 - now) {
        bool is_last = begin + tile_keys >= keys.end;
        if (!is_last) find_tile(call, view, begin + tile_keys, keys.end, &tiles[1 - now]);
        const Tile& next = tiles[is_last ? now : 1 - now];
        with_kind(kind_of(call, view), JobOfTile{call, job, tiles[now], next, memory, paired, by_dims});
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
