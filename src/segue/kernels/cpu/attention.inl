// Attention with a running softmax (Milakov & Gimelshein 2018; Dao et al. 2022, "FlashAttention"), by tiles of keys.
#include "attention_job.inl"
#include "attention_write.inl"

namespace segue::SEGUE_ISA {

using attention::block_queries;
using attention::split_keys;
using attention::splits_of;

// Sequences of few queries: their heads and splits, laid out in a row by cost and cut into equal parts.
static bool is_small(const View& view) { return view.num_queries <= attention::small_queries; }

template <class Each>
SEGUE_INLINE void for_each_split(const AttentionCall& call, bool is_packed, const Each& each) {
    int64_t offset = 0;
    for (int64_t i = 0; i < call.sequences.count; ++i) {
        View view = view_of(call, i, is_packed);
        if (!is_small(view) || view.num_queries == 0) continue;
        Range splits = splits_of(call.spec, view.num_queries, view.num_keys);
        int64_t count = splits.end - splits.begin;
        for (int64_t split = splits.begin; split < splits.end; ++split) {
            int64_t end = (split + 1) * split_keys < view.num_keys ? (split + 1) * split_keys : view.num_keys;
            each(view, Part{split * split_keys, end, split - splits.begin, count, offset});
        }
        if (count == 0) each(view, Part{0, 0, 0, 1, offset});
        if (count > 1) offset += count * call.spec.num_heads * view.num_queries * attention::partial_floats(call.spec);
    }
}

static void run_small(const AttentionCall& call, bool is_packed, const Slice& slice) {
    int64_t total = 0, base = 0, heads = call.spec.kv_heads;
    for_each_split(call, is_packed, [&](const View&, const Part& part) { total += part.cost() * heads; });
    Range mine = slice.part(total);
    for_each_split(call, is_packed, [&](const View& view, const Part& part) {
        auto head_at = [&](int64_t place) {
            int64_t head = (place - base + part.cost() - 1) / part.cost();
            return place <= base ? 0 : head > heads ? heads : head;
        };
        Job job{head_at(mine.begin), head_at(mine.end), 0, view.num_queries, part};
        if (job.head_begin < job.head_end) run_job(call, view, job, slice);
        base += part.cost() * heads;
    });
}

// Long sequences: (head, block of queries), laid out in a row by cost likewise.
template <class Each>
SEGUE_INLINE void for_each_block(const AttentionCall& call, bool is_packed, const Each& each) {
    for (int64_t i = 0; i < call.sequences.count; ++i) {
        View view = view_of(call, i, is_packed);
        if (is_small(view)) continue;
        for (int64_t head = 0; head < call.spec.kv_heads; ++head) {
            for (int64_t begin = 0; begin < view.num_queries; begin += block_queries(call.spec)) {
                int64_t end = begin + block_queries(call.spec);
                end = end < view.num_queries ? end : view.num_queries;
                Range keys = keys_seen(call.spec, view, begin, end);
                Job job{head, head + 1, begin, end, Part{keys.begin, keys.end, 0, 1, 0}};
                each(view, job, (end - begin) * (keys.end - keys.begin + tile_keys));
            }
        }
    }
}

static void run_long(const AttentionCall& call, bool is_packed, const Slice& slice) {
    int64_t total = 0, base = 0;
    for_each_block(call, is_packed, [&](const View&, const Job&, int64_t cost) { total += cost; });
    Range mine = slice.part(total);
    for_each_block(call, is_packed, [&](const View& view, const Job& job, int64_t cost) {
        int64_t middle = base + cost / 2;
        if (middle >= mine.begin && middle < mine.end) run_job(call, view, job, slice);
        base += cost;
    });
}

// The splits of a row in their order, wherever they were computed.
static void merge_row(const AttentionCall& call, const View& view, const Part& part, int64_t row, const Slice& slice) {
    int64_t rows = call.spec.num_heads * view.num_queries, size = attention::partial_floats(call.spec);
    int64_t value_dim = padded(call.spec.value_dim);
    float* first = partials_of(call, slice) + part.offset + row * size;
    Running total{first, first + value_dim, first + value_dim + 1};
    for (int64_t split = 1; split < part.num_splits; ++split) {
        float* next = first + split * rows * size;
        merge(total, Running{next, next + value_dim, next + value_dim + 1}, value_dim);
    }
    finish_row(call, view, row_at(call, view, row), total);
}

static void merge_splits(const AttentionCall& call, const Slice& slice) {
    bool is_needed = false;
    for_each_split(call, false, [&](const View&, const Part& part) { is_needed |= part.num_splits > 1; });
    if (!is_needed) return;
    slice.barrier();
    for_each_split(call, false, [&](const View& view, const Part& part) {
        if (part.num_splits == 1 || part.index > 0) return;
        Range mine = slice.part(call.spec.num_heads * view.num_queries);
        for (int64_t row = mine.begin; row < mine.end; ++row) merge_row(call, view, part, row, slice);
    });
}

static void paged(const AttentionCall& call, const Slice& slice) {
    run_small(call, false, slice);
    run_long(call, false, slice);
    merge_splits(call, slice);
}

static void packed(const AttentionCall& call, const Slice& slice) {
    run_small(call, true, slice);
    run_long(call, true, slice);
}

static constexpr AttentionKernels attention_kernels = {write, paged, packed};

}  // namespace segue::SEGUE_ISA
