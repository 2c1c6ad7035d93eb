// Operators on rows of floats: norms, embeddings, positions, activations. Each slice does a part of the rows.
#pragma once

#include <cstdint>

#include "linear.h"
#include "slice.h"

namespace segue {

enum class FloatKind : uint8_t { f32, f16, bf16 };

// out[r] = table[ids[r] + offset] * scale (+ out[r] where `accumulate`).
struct EmbedCall {
    const int64_t* ids;
    int64_t rows, dim, offset, num_embeddings;
    const void* table;
    FloatKind kind;
    float scale;
    bool accumulate;
    float* out;
    int64_t out_stride;
};

// Over the last `dim` of every [rows, groups, dim]: LayerNorm where `centered`, else RMSNorm.
// `x` and `out` may be the same. `weight`, `bias`: [dim] or null.
struct NormCall {
    const float* x;
    int64_t x_stride;  // between rows
    int64_t rows, groups, dim;
    int64_t x_group_stride, out_group_stride;
    const float* weight;
    const float* bias;
    float eps;
    bool centered;
    float* out;
    int64_t out_stride;
};

// cos and sin of every row's angles, [rows, pairs] each, side by side: out[r] = cos[pairs], sin[pairs].
// angle = position * inverse[pair]; rows whose `is_long` is set use `long_inverse`. Both times `factor`.
struct AnglesCall {
    const int64_t* positions;
    const bool* is_long;  // null: none
    int64_t rows, pairs;
    const float* inverse;
    const float* long_inverse;
    float factor, long_factor;
    float* out;  // [rows, 2 * pairs]
};

// Rotates in place the first 2 * pairs of `heads` vectors of head_dim a row.
struct RotateCall {
    float* x;
    int64_t x_stride;  // between rows
    int64_t rows, heads, head_dim, pairs;
    bool interleaved;  // pairs are neighbours, else halves apart
    const float* angles;
};

enum class Binary : uint8_t { add, multiply };

// out = (a op b) element by element, then times scale; b: [rows, dim], or one row for all where b_stride = 0.
struct BinaryCall {
    const float* a;
    const float* b;
    int64_t a_stride, b_stride, out_stride;
    int64_t rows, dim;
    Binary op;
    float scale;
    float* out;
};

// out = act(x * scale) * (multiplied ? multiplied : 1); soft_cap > 0: soft_cap * tanh(x * scale / soft_cap) instead.
struct ActivateCall {
    const float* x;
    const float* multiplied;
    int64_t x_stride, multiplied_stride, out_stride;
    int64_t rows, dim;
    float scale, soft_cap;
    Activation activation;
    float* out;
};

// out[r] = x[indices[r]].
struct GatherCall {
    const float* x;
    const int64_t* indices;
    int64_t x_stride, rows, dim, out_stride;
    float* out;
};

struct RowKernels {
    void (*embed)(const EmbedCall&, const Slice&);
    void (*norm)(const NormCall&, const Slice&);
    void (*angles)(const AnglesCall&, const Slice&);
    void (*rotate)(const RotateCall&, const Slice&);
    void (*binary)(const BinaryCall&, const Slice&);
    void (*activate)(const ActivateCall&, const Slice&);
    void (*gather)(const GatherCall&, const Slice&);
};

}  // namespace segue
