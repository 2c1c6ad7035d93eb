#include "attention.h"

#include "attention_layout.h"

namespace segue {

size_t attention_scratch_bytes(const AttentionSpec& spec, const Sequences& sequences, int num_slices) {
    int64_t floats = attention::layout_of(spec).total * num_slices + 16;
    for (int64_t i = 0; i < sequences.count && sequences.kv_lens != nullptr; ++i) {
        int64_t queries = sequences.query_starts[i + 1] - sequences.query_starts[i];
        Range splits = attention::splits_of(spec, queries, sequences.kv_lens[i]);
        if (queries > attention::small_queries || splits.end - splits.begin < 2) continue;
        floats += (splits.end - splits.begin) * spec.num_heads * queries * attention::partial_floats(spec);
    }
    return static_cast<size_t>(floats) * sizeof(float);
}

}  // namespace segue
