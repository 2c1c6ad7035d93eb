// Attention with a running softmax (Milakov & Gimelshein 2018; Dao et al. 2022, "FlashAttention"), by tiles of keys.
#include <vector>

#include "attention_job.inl"
#include "attention_write.inl"

namespace segue::SEGUE_ISA {

using attention::block_queries;
using attention::splits_a_slice;
using attention::split_keys;
using attention::splits_of;

// Sequences of few queries are shared out by splits and heads.
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
    struct Split {
        View view;
        Part part;
    };
    thread_local std::vector<Split> splits;
    splits.clear();
    for_each_split(call, is_packed, [](const View& view, const Part& part) { splits.push_back({view, part}); });
    // Whole splits, since a block's heads lie one after the other, unless they are too few.
    const int64_t heads = call.spec.kv_heads, count = static_cast<int64_t>(splits.size());
    int64_t most = heads * count / (splits_a_slice * slice.count);
    most = most < 1 ? 1 : most > heads ? heads : most;
    const int64_t groups = (heads + most - 1) / most;
    slice.each(count * groups, [&](int64_t i) {
        const Split& split = splits[static_cast<size_t>(i / groups)];
        const int64_t group = i % groups;
        const Job job{heads * group / groups, heads * (group + 1) / groups, 0, split.view.num_queries, split.part};
        run_job(call, split.view, job, slice);
    });
}

// Long sequences by heads and blocks of queries.
static void run_long(const AttentionCall& call, bool is_packed, const Slice& slice) {
    const int64_t size = block_queries(call.spec), heads = call.spec.kv_heads;
    for (int64_t i = 0; i < call.sequences.count; ++i) {
        const View view = view_of(call, i, is_packed);
        if (is_small(view)) continue;
        const int64_t blocks = (view.num_queries + size - 1) / size;
        slice.each(heads * blocks, [&](int64_t piece) {
            const int64_t head = piece / blocks, begin = piece % blocks * size;
            const int64_t end = begin + size < view.num_queries ? begin + size : view.num_queries;
            const Range keys = keys_seen(call.spec, view, begin, end);
            run_job(call, view, {head, head + 1, begin, end, Part{keys.begin, keys.end, 0, 1, 0}}, slice);
        });
    }
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
