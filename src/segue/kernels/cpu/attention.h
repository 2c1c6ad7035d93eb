// Attention of packed queries over keys and values in blocks, or over those of the same packed input.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows.h"
#include "slice.h"

namespace segue {

enum class CacheKind : uint8_t { f32, f16, bf16, i8 };  // i8: one float scale a token and head, in `*_scales`

// One layer's cache: [num_blocks, block_size, kv_heads, dim]; or, by heads, [num_blocks, kv_heads, block_size, dim], of which
// the keys may be [num_blocks, kv_heads, dim, block_size] where block_size is a multiple of a register's lanes.
struct Cache {
    void* keys;
    void* values;
    float* key_scales;    // i8: of each of those rows of `dim`
    float* value_scales;
    CacheKind kind;
    int64_t block_size, kv_heads, key_dim, value_dim;
    bool by_heads, keys_by_dims;

    // Rows of `dim` from a slot of a block, or a head, to the next.
    int64_t slot_step() const { return by_heads ? 1 : kv_heads; }
    int64_t head_step() const { return by_heads ? block_size : 1; }
    // The row of the first head in a slot.
    int64_t row(int64_t block, int64_t inside) const {
        return block * block_size * kv_heads + inside * slot_step();
    }
};

struct WriteCall {
    const float* keys;
    const float* values;
    int64_t key_stride, value_stride;  // between rows; heads of a row follow each other
    int64_t rows;
    const int64_t* slots;  // [rows]
    Cache cache;
};

// What a layer's attention is (kernels/metadata.py: AttentionSpec).
struct AttentionSpec {
    int64_t num_heads, kv_heads, key_dim, value_dim;
    float scale;
    bool causal;
    int64_t window;             // 0: none; a query at p sees keys at > p - window
    float soft_cap;             // 0: none
    const float* alibi_slopes;  // [num_heads] or null
    bool alibi_is_rounded;
    // T5: [num_heads, 2 * max_distance + 1] or null: the bias by key position − query position, from −max_distance to
    // max_distance; the ends hold for all that is farther.
    const float* distance_bias;
    int64_t max_distance;
    const float* sinks;  // [num_heads] or null
};

// Sequence i owns the query rows [query_starts[i], query_starts[i + 1]); its keys are the first kv_lens[i] slots of
// its block table. When causal, its last query sees all of them.
struct Sequences {
    int64_t count;
    const int64_t* query_starts;  // [count + 1]
    const int64_t* kv_lens;       // [count]
    const int64_t* block_tables;  // [count, table_width]
    int64_t table_width;
};

struct AttentionCall {
    const float* q;
    int64_t q_stride;  // between rows; heads follow each other
    Cache cache;       // paged; unused by `packed`
    const float* k;    // `packed`: keys and values of the same rows
    const float* v;
    int64_t k_stride, v_stride;
    Sequences sequences;
    AttentionSpec spec;
    float* out;  // [rows, num_heads * value_dim]
    int64_t out_stride;
    std::byte* scratch;  // attention_scratch_bytes(), shared by all slices
};

struct AttentionKernels {
    void (*write)(const WriteCall&, const Slice&);
    // To be called by every slice of a region. Work is shared out by (sequence, head, part of the keys or queries), so
    // that one long sequence uses all slices. Uses a barrier where a sequence's keys are shared; there is none at the
    // end. A row's result depends neither on the other rows of the call (a prompt in one chunk or in many gives the same
    // bits), nor on the number of slices. A row that sees no key gives zeros.
    void (*paged)(const AttentionCall&, const Slice&);
    void (*packed)(const AttentionCall&, const Slice&);
};

// Enough for `paged` of these sequences, and for `packed` of any.
size_t attention_scratch_bytes(const AttentionSpec& spec, const Sequences& sequences, int num_slices);

}  // namespace segue
