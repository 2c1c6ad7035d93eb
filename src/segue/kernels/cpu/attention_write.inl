// Keys and values of new tokens into their slots.
#pragma once

#include "attention.h"
#include "halves.inl"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

// Codes cannot hold what is not finite: the scale does, so that whoever reads it notices.
SEGUE_INLINE void narrow_i8(const float* from, int64_t dim, int8_t* to, float* scale) {
    f32xr largest{}, zeros{};
    for (int64_t i = 0; i < dim; i += register_lanes) {
        f32xr x = load_first<f32xr>(from + i, dim - i);
        largest = max(largest, abs(x));
        zeros += x - x;
    }
    float zero = sum_of(zeros);
    *scale = max_of(largest) / 127.0f + zero;
    if (zero != 0) {
        memset(to, 0, static_cast<size_t>(dim));
        return;
    }
    float inverse = *scale > 0 ? 1.0f / *scale : 0.0f;
    for (int64_t i = 0; i < dim; ++i) to[i] = static_cast<int8_t>(__builtin_rintf(from[i] * inverse));
}

// One head's `dim` floats into a cache, from its element `at` on.
static void write_head(const float* from, int64_t dim, CacheKind kind, void* cache, int64_t at, float* scale) {
    if (kind == CacheKind::f32) {
        memcpy(static_cast<float*>(cache) + at, from, static_cast<size_t>(dim) * sizeof(float));
        return;
    }
    if (kind == CacheKind::i8) return narrow_i8(from, dim, static_cast<int8_t*>(cache) + at, scale);
    uint16_t* to = static_cast<uint16_t*>(cache) + at;
    for (int64_t i = 0; i < dim; i += lanes) {
        uint16_t halves[lanes];
        f32x16 x = load_first<f32x16>(from + i, dim - i);
        kind == CacheKind::f16 ? store_f16(halves, x) : store_bf16(halves, x);
        memcpy(to + i, halves, static_cast<size_t>(dim - i < lanes ? dim - i : lanes) * sizeof(uint16_t));
    }
}

static void write(const WriteCall& call, const Slice& slice) {
    const Cache& cache = call.cache;
    Range mine = slice.part(call.rows * cache.kv_heads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        int64_t row = i / cache.kv_heads, head = i % cache.kv_heads;
        int64_t slot = call.slots[row];
        int64_t place = cache.row(slot / cache.block_size, slot % cache.block_size) + head * cache.head_step();
        write_head(call.keys + row * call.key_stride + head * cache.key_dim, cache.key_dim, cache.kind, cache.keys,
                   place * cache.key_dim, cache.key_scales + place);
        write_head(call.values + row * call.value_stride + head * cache.value_dim, cache.value_dim, cache.kind,
                   cache.values, place * cache.value_dim, cache.value_scales + place);
    }
}

}  // namespace segue::SEGUE_ISA
