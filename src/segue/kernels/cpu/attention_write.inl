// Keys and values of new tokens into their slots.
#pragma once

#include "attention.h"
#include "halves.inl"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

// Codes cannot hold what is not finite: the scale does, so that whoever reads it notices. Returns the scale's inverse.
SEGUE_INLINE float scale_of(const float* from, int64_t dim, float* scale) {
    f32xr largest{}, zeros{};
    for (int64_t i = 0; i < dim; i += register_lanes) {
        f32xr x = load_first<f32xr>(from + i, dim - i);
        largest = max(largest, abs(x));
        zeros += x - x;
    }
    float zero = sum_of(zeros);
    *scale = max_of(largest) / 127.0f + zero;
    return *scale > 0 ? 1.0f / *scale : 0.0f;
}

// The first `count` of `numbers` into a cache, `step` apart.
template <class Number>
SEGUE_INLINE void put(const Number* numbers, int64_t count, Number* to, int64_t step) {
    if (step == 1 && count == lanes) {
        memcpy(to, numbers, lanes * sizeof(Number));
        return;
    }
    for (int64_t i = 0; i < count; ++i) to[i * step] = numbers[i];
}

// One head's `dim` floats into a cache, from its element `at` on, `step` apart.
static void write_head(const float* from, int64_t dim, CacheKind kind, void* cache, int64_t at, int64_t step,
                       float* scale) {
    const float inverse = kind == CacheKind::i8 ? scale_of(from, dim, scale) : 1.0f;
    for (int64_t i = 0; i < dim; i += lanes) {
        const int64_t count = dim - i < lanes ? dim - i : lanes, place = at + i * step;
        if (kind == CacheKind::f32) {
            put(from + i, count, static_cast<float*>(cache) + place, step);
        } else if (kind == CacheKind::i8) {
            int8_t codes[lanes];
            const bool is_finite = *scale - *scale == 0;
            for (int64_t j = 0; j < count; ++j)
                codes[j] = is_finite ? static_cast<int8_t>(__builtin_rintf(from[i + j] * inverse)) : int8_t{0};
            put(codes, count, static_cast<int8_t*>(cache) + place, step);
        } else {
            uint16_t halves[lanes];
            f32x16 x = load_first<f32x16>(from + i, count);
            kind == CacheKind::f16 ? store_f16(halves, x) : store_bf16(halves, x);
            put(halves, count, static_cast<uint16_t*>(cache) + place, step);
        }
    }
}

static void write(const WriteCall& call, const Slice& slice) {
    const Cache& cache = call.cache;
    const int64_t key_step = cache.keys_by_dims ? cache.block_size : 1;
    Range mine = slice.part(call.rows * cache.kv_heads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        int64_t row = i / cache.kv_heads, head = i % cache.kv_heads;
        int64_t slot = call.slots[row];
        int64_t inside = slot % cache.block_size;
        int64_t place = cache.row(slot / cache.block_size, inside) + head * cache.head_step();
        int64_t key = cache.keys_by_dims ? (place - inside) * cache.key_dim + inside : place * cache.key_dim;
        write_head(call.keys + row * call.key_stride + head * cache.key_dim, cache.key_dim, cache.kind, cache.keys, key,
                   key_step, cache.key_scales + place);
        write_head(call.values + row * call.value_stride + head * cache.value_dim, cache.value_dim, cache.kind,
                   cache.values, place * cache.value_dim, 1, cache.value_scales + place);
    }
}

}  // namespace segue::SEGUE_ISA
