// From products of queries and keys to weights: caps, biases, masks and the running softmax.
#pragma once

#include "attention_layout.h"
#include "isa.h"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

using attention::tile_keys;

// What turns a row's products with a tile of keys into scores.
struct Scoring {
    int64_t head;       // of the queries
    int64_t position;   // of the query
    int32_t first, last;  // positions of the keys that it sees
};

SEGUE_INLINE f32xr to_bf16_and_back(f32xr x) {
    i32xr bits = bits_of<i32xr>(x);
    return bits_of<f32xr>((bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff);
}

SEGUE_INLINE f32xr distance_bias(const AttentionSpec& spec, const Scoring& row, int64_t relative) {
    int64_t far = spec.max_distance;
    const float* bias = spec.distance_bias + row.head * (2 * far + 1) + far;
    if (relative >= -far && relative + register_lanes - 1 <= far) return load<f32xr>(bias + relative);
    float part[register_lanes];
    for (int i = 0; i < register_lanes; ++i) {
        int64_t at = relative + i;
        part[i] = bias[at < -far ? -far : at > far ? far : at];
    }
    return load<f32xr>(part);
}

SEGUE_INLINE i32xr lane_numbers() {
    i32xr numbers{};
    for (int i = 0; i < register_lanes; ++i) numbers[i] = i;
    return numbers;
}

// The cap and the bias of the scores of the keys from `key` on.
SEGUE_INLINE f32xr shape_scores(const AttentionSpec& spec, const Scoring& row, f32xr score, int64_t key) {
    if (spec.soft_cap > 0) score = tanh(score / spec.soft_cap) * spec.soft_cap;
    if (spec.alibi_slopes != nullptr) {
        f32xr keys = __builtin_convertvector(lane_numbers() + static_cast<int32_t>(key), f32xr);
        float slope = spec.alibi_slopes[row.head];
        if (spec.alibi_is_rounded)
            score += to_bf16_and_back(to_bf16_and_back(all(slope)) * to_bf16_and_back(keys)) * spec.scale;
        else
            score += (keys - static_cast<float>(row.position)) * slope;
    }
    if (spec.distance_bias != nullptr) score += distance_bias(spec, row, key - row.position);
    return score;
}

// A row's running softmax.
struct Running {
    float* out;      // [padded value_dim]: the values, weighted
    float* largest;  // score
    float* sum;      // of weights
};

SEGUE_INLINE float exp_of_difference(float low, float high) {
    return low == -__builtin_inff() ? 0.0f : exp_of_nonpositive(all(low - high))[0];
}

// One tile's scores of a row, [tile_keys] from `key` on: shaped, those of unseen keys -inf. Returns the largest.
SEGUE_INLINE float mask_scores(const AttentionSpec& spec, const Scoring& row, int64_t key, int64_t num_keys,
                               float* scores) {
    bool is_plain = spec.soft_cap <= 0 && spec.alibi_slopes == nullptr && spec.distance_bias == nullptr;
    bool sees_all = row.first <= key && row.last >= key + tile_keys - 1;
    f32xr largest = all(-__builtin_inff());
    for (int64_t i = 0; i < num_keys; i += register_lanes) {
        f32xr score = load<f32xr>(scores + i);
        if (!is_plain) score = shape_scores(spec, row, score, key + i);
        if (!sees_all) {
            i32xr keys = lane_numbers() + static_cast<int32_t>(key + i);
            score = ((keys >= row.first) & (keys <= row.last)) != 0 ? score : all(-__builtin_inff());
        }
        if (!is_plain || !sees_all) store(scores + i, score);
        largest = max(largest, score);
    }
    return max_of(largest);
}

// A register's whole number of rows.
constexpr int64_t weighed_rows = (attention::most_rows + 15) / 16 * 16;

// scores [count][tile_keys] of the keys from `key` on → weights relative to each row's largest score so far; `largest`
// and `sum` [count] follow, `kept` is what the weighted values so far are to be multiplied with. Row by row where rows are
// long, across rows where they are single numbers: without a branch on data, so that one row's chain hides another's.
static __attribute__((noinline)) void weigh(const AttentionSpec& spec, const Scoring* rows, int64_t count, int64_t key,
                                            int64_t num_keys, float* scores, float* largest, float* sum, float* kept) {
    constexpr float none = -__builtin_inff();
    float before[weighed_rows], after[weighed_rows], sums[weighed_rows];
    for (int64_t r = 0; r < count; ++r) {
        float found = mask_scores(spec, rows[r], key, num_keys, scores + r * tile_keys);
        before[r] = largest[r], sums[r] = sum[r];
        after[r] = largest[r] > found ? largest[r] : found;
        largest[r] = after[r];
    }
    for (int64_t r = count; r % register_lanes != 0; ++r) before[r] = after[r] = sums[r] = 0;
    for (int64_t r = 0; r < count; r += register_lanes) {
        f32xr low = load<f32xr>(before + r), high = load<f32xr>(after + r);
        f32xr factor = low == none ? f32xr{} : exp_of_nonpositive(low - high);
        store(kept + r, factor);
        store(sums + r, load<f32xr>(sums + r) * factor);
        store(after + r, high == none ? f32xr{} : high);  // of a row that sees none all weights are 0
    }
    for (int64_t r = 0; r < count; ++r) {
        float* row = scores + r * tile_keys;
        f32xr total{}, high = all(after[r]);
        for (int64_t i = 0; i < num_keys; i += register_lanes) {
            f32xr weight = exp_of_nonpositive(load<f32xr>(row + i) - high);
            store(row + i, weight);
            total += weight;
        }
        sum[r] = sums[r] + sum_of(total);
    }
}

// Takes the sums of the keys that follow into those of the keys before. Not inlined: it must round alike for all callers.
__attribute__((noinline)) static void merge(const Running& before, const Running& next, int64_t value_dim) {
    float largest = *before.largest > *next.largest ? *before.largest : *next.largest;
    float a = exp_of_difference(*before.largest, largest), b = exp_of_difference(*next.largest, largest);
    *before.largest = largest;
    *before.sum = *before.sum * a + *next.sum * b;
    for (int64_t d = 0; d < value_dim; d += register_lanes)
        store(before.out + d, load<f32xr>(before.out + d) * a + load<f32xr>(next.out + d) * b);
}

}  // namespace segue::SEGUE_ISA
