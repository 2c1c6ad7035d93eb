// The arithmetic of one tile of keys: copies into the layouts that products read, small products, softmax.
#pragma once

#include "attention_layout.h"
#include "halves.inl"
#include "isa.h"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

using attention::padded;
using attention::tile_keys;

// Registers of a product's result: product_rows * product_columns, the rest for its operands.
constexpr int product_rows = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int product_columns = 4;
#else
constexpr int product_columns = 2;
#endif

// c[rows, columns registers] (+)= a[rows, depth] · b[depth, columns registers], each element summed in the order of depth.
template <int rows, int columns>
static void multiply_block(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, float* c,
                           int64_t c_stride, bool accumulate) {
    f32xr sums[rows][columns];
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j)
            sums[i][j] = accumulate ? load<f32xr>(c + i * c_stride + j * register_lanes) : f32xr{};
    for (int64_t k = 0; k < depth; ++k) {
        f32xr right[columns];
        for (int j = 0; j < columns; ++j) right[j] = load<f32xr>(b + k * b_stride + j * register_lanes);
        for (int i = 0; i < rows; ++i) {
            f32xr left = all(a[i * a_stride + k]);
            for (int j = 0; j < columns; ++j) sums[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) store(c + i * c_stride + j * register_lanes, sums[i][j]);
}

template <int columns>
static void multiply_columns(int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                             int64_t depth, float* c, int64_t c_stride, bool accumulate) {
    int64_t i = 0;
    for (; i + product_rows <= rows; i += product_rows)
        multiply_block<product_rows, columns>(a + i * a_stride, a_stride, b, b_stride, depth, c + i * c_stride,
                                              c_stride, accumulate);
    a += i * a_stride, c += i * c_stride;
    switch (rows - i) {
        case 1: return multiply_block<1, columns>(a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
        case 2: return multiply_block<2, columns>(a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
        case 3: return multiply_block<3, columns>(a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
        case 4: return multiply_block<4, columns>(a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
        case 5: return multiply_block<5, columns>(a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
    }
}

// c[rows, n] (+)= a[rows, depth] · b[depth, n]; n: a multiple of 16.
static void multiply(int64_t rows, int64_t n, int64_t depth, const float* a, int64_t a_stride, const float* b,
                     int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
    constexpr int64_t width = product_columns * register_lanes;
    int64_t j = 0;
    for (; j + width <= n; j += width)
        multiply_columns<product_columns>(rows, a, a_stride, b + j, b_stride, depth, c + j, c_stride, accumulate);
    for (; j < n; j += register_lanes)
        multiply_columns<1>(rows, a, a_stride, b + j, b_stride, depth, c + j, c_stride, accumulate);
}

// Exchanges the parts of a and b that are off the diagonal of a 2x2 matrix of blocks of `step` lanes.
template <int step>
SEGUE_INLINE void exchange(f32xr& a, f32xr& b) {
#define SEGUE_LOW(l) ((l) & step ? register_lanes + (l) - step : (l))
#define SEGUE_HIGH(l) ((l) & step ? register_lanes + (l) : (l) + step)
#define SEGUE_4(f, l) f(l), f(l + 1), f(l + 2), f(l + 3)
#if defined(__AVX512F__)
#define SEGUE_ALL(f) SEGUE_4(f, 0), SEGUE_4(f, 4), SEGUE_4(f, 8), SEGUE_4(f, 12)
#elif defined(__AVX2__)
#define SEGUE_ALL(f) SEGUE_4(f, 0), SEGUE_4(f, 4)
#else
#define SEGUE_ALL(f) SEGUE_4(f, 0)
#endif
    f32xr low = __builtin_shufflevector(a, b, SEGUE_ALL(SEGUE_LOW));
    b = __builtin_shufflevector(a, b, SEGUE_ALL(SEGUE_HIGH));
    a = low;
#undef SEGUE_LOW
#undef SEGUE_HIGH
#undef SEGUE_4
#undef SEGUE_ALL
}

template <int step>
SEGUE_INLINE void transpose(f32xr (&rows)[register_lanes]) {
    if constexpr (step < register_lanes) {
#pragma GCC unroll 16
        for (int i = 0; i < register_lanes; ++i)
            if ((i & step) == 0) exchange<step>(rows[i], rows[i + step]);
        transpose<2 * step>(rows);
    }
}

// rows: tile_keys vectors of `dim` floats → out [dim, tile_keys].
static void transpose_tile(const float* const* rows, int64_t dim, float* out) {
    for (int64_t key = 0; key < tile_keys; key += register_lanes) {
        for (int64_t d = 0; d < dim; d += register_lanes) {
            f32xr block[register_lanes];
            float* to = out + d * tile_keys + key;
            if (d + register_lanes <= dim) {
#pragma GCC unroll 16
                for (int i = 0; i < register_lanes; ++i) block[i] = load<f32xr>(rows[key + i] + d);
                transpose<1>(block);
#pragma GCC unroll 16
                for (int i = 0; i < register_lanes; ++i) store(to + i * tile_keys, block[i]);
            } else {
                for (int i = 0; i < register_lanes; ++i) block[i] = load_first<f32xr>(rows[key + i] + d, dim - d);
                transpose<1>(block);
                for (int i = 0; i < dim - d; ++i) store(to + i * tile_keys, block[i]);
            }
        }
    }
}

// q [dim] · rows → out, a sum a key in the order of dim, as `multiply` of the transposed rows gives it. For one query the
// transposed rows are used once, so they never leave the registers.
static void multiply_rows(const float* q, const float* const* rows, int64_t num_keys, int64_t dim, float* out) {
    for (int64_t key = 0; key < num_keys; key += register_lanes) {
        f32xr sum{};
        for (int64_t d = 0; d < dim; d += register_lanes) {
            f32xr block[register_lanes];
            if (d + register_lanes <= dim) {
#pragma GCC unroll 16
                for (int i = 0; i < register_lanes; ++i) block[i] = load<f32xr>(rows[key + i] + d);
                transpose<1>(block);
#pragma GCC unroll 16
                for (int i = 0; i < register_lanes; ++i) sum += all(q[d + i]) * block[i];
            } else {
                for (int i = 0; i < register_lanes; ++i) block[i] = load_first<f32xr>(rows[key + i] + d, dim - d);
                transpose<1>(block);
                for (int i = 0; i < dim - d; ++i) sum += all(q[d + i]) * block[i];
            }
        }
        store(out + key, sum);
    }
}

// out [columns registers] += weights · rows, in the order of the keys, as `multiply` does it.
template <int columns, bool is_whole>
static void add_columns(const float* weights, const float* const* rows, int64_t num_keys, int64_t column, int64_t dim,
                        float* out) {
    f32xr sums[columns];
    for (int j = 0; j < columns; ++j) sums[j] = load<f32xr>(out + column + j * register_lanes);
    for (int64_t i = 0; i < num_keys; ++i) {
        f32xr weight = all(weights[i]);
        for (int j = 0; j < columns; ++j) {
            int64_t at = column + j * register_lanes;
            sums[j] += weight * (is_whole ? load<f32xr>(rows[i] + at) : load_first<f32xr>(rows[i] + at, dim - at));
        }
    }
    for (int j = 0; j < columns; ++j) store(out + column + j * register_lanes, sums[j]);
}

static void add_rows(const float* weights, const float* const* rows, int64_t num_keys, int64_t dim, float* out) {
    int64_t at = 0;
    for (; at + product_columns * register_lanes <= dim; at += product_columns * register_lanes)
        add_columns<product_columns, true>(weights, rows, num_keys, at, dim, out);
    for (; at + register_lanes <= dim; at += register_lanes)
        add_columns<1, true>(weights, rows, num_keys, at, dim, out);
    if (at < dim) add_columns<1, false>(weights, rows, num_keys, at, dim, out);
}

template <class T>
SEGUE_INLINE void widen_with(const T* from, int64_t count, float* out, f32x16 (*widened)(const T*)) {
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) store(out + i, widened(from + i));
    if (i == count) return;
    T rest[lanes] = {};
    for (int64_t lane = 0; lane < count - i; ++lane) rest[lane] = from[i + lane];
    store(out + i, widened(rest));
}

// `count` elements of a cache → floats; writes up to the next multiple of 16.
static void widen(const void* from, int64_t at, int64_t count, CacheKind kind, float scale, float* out) {
    typedef int8_t i8x16 __attribute__((vector_size(16)));
    if (kind == CacheKind::f32) {
        int64_t i = 0;
        const float* floats = static_cast<const float*>(from) + at;
        for (; i + register_lanes <= count; i += register_lanes) store(out + i, load<f32xr>(floats + i));
        for (; i < padded(count); i += register_lanes) store(out + i, load_first<f32xr>(floats + i, count - i));
    } else if (kind == CacheKind::f16) {
        widen_with<uint16_t>(static_cast<const uint16_t*>(from) + at, count, out,
                             [](const uint16_t* halves) { return from_f16(halves); });
    } else if (kind == CacheKind::bf16) {
        widen_with<uint16_t>(static_cast<const uint16_t*>(from) + at, count, out,
                             [](const uint16_t* halves) { return from_bf16(halves); });
    } else {
        // By way of int32: GCC goes from int8 to float lane by lane.
        widen_with<int8_t>(static_cast<const int8_t*>(from) + at, count, out, [](const int8_t* codes) {
            return __builtin_convertvector(__builtin_convertvector(load<i8x16>(codes), i32x16), f32x16);
        });
        for (int64_t i = 0; i < padded(count); i += register_lanes) store(out + i, load<f32xr>(out + i) * scale);
    }
}

// What turns a row's products with a tile of keys into scores.
struct Scoring {
    const AttentionSpec* spec;
    int64_t head;       // of the queries
    int64_t position;   // of the query
    int32_t first, last;  // positions of the keys that it sees
};

SEGUE_INLINE f32xr to_bf16_and_back(f32xr x) {
    i32xr bits = bits_of<i32xr>(x);
    return bits_of<f32xr>((bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff);
}

SEGUE_INLINE f32xr distance_bias(const Scoring& row, int64_t relative) {
    int64_t far = row.spec->max_distance;
    const float* bias = row.spec->distance_bias + row.head * (2 * far + 1) + far;
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
SEGUE_INLINE f32xr shape_scores(const Scoring& row, f32xr score, int64_t key) {
    const AttentionSpec& spec = *row.spec;
    if (spec.soft_cap > 0) score = tanh(score / spec.soft_cap) * spec.soft_cap;
    if (spec.alibi_slopes != nullptr) {
        f32xr keys = __builtin_convertvector(lane_numbers() + static_cast<int32_t>(key), f32xr);
        float slope = spec.alibi_slopes[row.head];
        if (spec.alibi_is_rounded)
            score += to_bf16_and_back(to_bf16_and_back(all(slope)) * to_bf16_and_back(keys)) * spec.scale;
        else
            score += (keys - static_cast<float>(row.position)) * slope;
    }
    if (spec.distance_bias != nullptr) score += distance_bias(row, key - row.position);
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

// scores [tile_keys] of the keys from `key` on → weights relative to the largest score so far; the running sums follow.
static void weigh(const Scoring& row, int64_t key, int64_t num_keys, float* scores, const Running& running,
                  int64_t value_dim) {
    const AttentionSpec& spec = *row.spec;
    bool is_plain = spec.soft_cap <= 0 && spec.alibi_slopes == nullptr && spec.distance_bias == nullptr;
    bool sees_all = row.first <= key && row.last >= key + tile_keys - 1;
    f32xr largest = all(-__builtin_inff());
    for (int64_t i = 0; i < num_keys; i += register_lanes) {
        f32xr score = load<f32xr>(scores + i);
        if (!is_plain) score = shape_scores(row, score, key + i);
        if (!sees_all) {
            i32xr keys = lane_numbers() + static_cast<int32_t>(key + i);
            score = ((keys >= row.first) & (keys <= row.last)) != 0 ? score : all(-__builtin_inff());
        }
        if (!is_plain || !sees_all) store(scores + i, score);
        largest = max(largest, score);
    }
    float before = *running.largest, after = max_of(largest);
    after = before > after ? before : after;
    bool sees_none = after == -__builtin_inff();
    f32xr sum{};
    for (int64_t i = 0; i < num_keys; i += register_lanes) {
        f32xr weight = sees_none ? f32xr{} : exp_of_nonpositive(load<f32xr>(scores + i) - after);
        store(scores + i, weight);
        sum += weight;
    }
    if (before != after) {
        float kept = exp_of_difference(before, after);
        *running.sum *= kept;
        for (int64_t d = 0; d < value_dim; d += register_lanes)
            store(running.out + d, load<f32xr>(running.out + d) * kept);
    }
    *running.largest = after;
    *running.sum += sum_of(sum);
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
