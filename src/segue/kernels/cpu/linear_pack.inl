// Rounding weights to integers: one row, group by group.
#pragma once

#include "halves.inl"
#include "linear.h"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

typedef uint8_t u8x16 __attribute__((vector_size(16)));

// One group's candidate: weight ≈ (code - zero) * scale, lowest <= code <= highest.
struct Rounding {
    float scale, zero, lowest, highest;
};

SEGUE_INLINE f32x16 rounded(f32x16 x) {
    constexpr float rounder = 12582912.0f;  // 1.5 * 2^23
    f32x16 shifted = x + rounder;
    return shifted - rounder;
}

SEGUE_INLINE f32x16 codes_of(f32x16 w, const Rounding& rounding) {
    float inverse = rounding.scale != 0.0f ? 1.0f / rounding.scale : 0.0f;
    f32x16 code = rounded(w * inverse) + rounding.zero;
    return min(max(code, broadcast(rounding.lowest)), broadcast(rounding.highest));
}

static float squared_error(const float* w, int64_t vectors, const Rounding& rounding) {
    f32x16 sum{};
    for (int64_t i = 0; i < vectors; ++i) {
        f32x16 x = load<f32x16>(w + i * lanes);
        f32x16 error = (codes_of(x, rounding) - rounding.zero) * rounding.scale - x;
        sum += error * error;
    }
    return sum_of(sum);
}

// Scales that 16 bits hold where they are near enough.
SEGUE_INLINE f32x16 shortened(f32x16 scales) {
    uint16_t halves[lanes];
    store_f16(halves, scales);
    f32x16 size = abs(scales);
    return (size >= 6.103515625e-5f) & (size <= 65504.0f) ? from_f16(halves) : scales;
}

// The extremes of a group, zero among them.
static void extremes(const float* w, int64_t vectors, float* low, float* high) {
    f32x16 largest{}, smallest{};
    for (int64_t i = 0; i < vectors; ++i) {
        f32x16 x = load<f32x16>(w + i * lanes);
        largest = max(x, largest);
        smallest = max(-x, smallest);
    }
    *low = -max_of(smallest);
    *high = max_of(largest);
}

constexpr int num_ranges = 12;  // scales that are tried for a group, around the one that just reaches the extremes

// sum_of() of each of four vectors at a time, in the same order.
static void sums_of(const f32x16* vectors, int count, float* sums) {
    typedef float f32x4 __attribute__((vector_size(16)));
    typedef int32_t i32x4 __attribute__((vector_size(16)));
    typedef float f32x8 __attribute__((vector_size(32)));
    for (int i = 0; i < count; i += 4) {
        f32x4 part[4];
        for (int j = 0; j < 4; ++j) {
            f32x8 halves[2];
            memcpy(halves, vectors + i + j, sizeof halves);
            halves[0] += halves[1];
            f32x4 quarters[2];
            memcpy(quarters, halves, sizeof quarters);
            part[j] = quarters[0] + quarters[1];
        }
        f32x4 low[2], high[2];
        for (int j = 0; j < 2; ++j) {
            low[j] = __builtin_shuffle(part[2 * j], part[2 * j + 1], i32x4{0, 1, 4, 5});
            high[j] = __builtin_shuffle(part[2 * j], part[2 * j + 1], i32x4{2, 3, 6, 7});
            low[j] += high[j];
        }
        f32x4 total = __builtin_shuffle(low[0], low[1], i32x4{0, 2, 4, 6}) +
                      __builtin_shuffle(low[0], low[1], i32x4{1, 3, 5, 7});
        memcpy(sums + i, &total, sizeof total);
    }
}

// The squared errors of codes -8 … 7 with each scale. `count` vectors at most 8: they stay in registers.
template <int count>
static void symmetric_errors(const float* w, const float* scales, float* errors) {
    f32x16 x[count], sums[num_ranges];
    for (int i = 0; i < count; ++i) x[i] = load<f32x16>(w + i * lanes);
    const f32x16 all = load<f32x16>(scales);
    float inverse[lanes];
    store(inverse, all != 0.0f ? 1.0f / all : f32x16{});
    for (int range = 0; range < num_ranges; ++range) {
        f32x16 sum{};
        for (int i = 0; i < count; ++i) {
            f32x16 code = min(broadcast(7.0f), max(broadcast(-8.0f), rounded(x[i] * inverse[range])));
            f32x16 error = code * scales[range] - x[i];
            sum += error * error;
        }
        sums[range] = sum;
    }
    sums_of(sums, num_ranges, errors);
}

// With a zero point where there are some. Symmetric codes are -8 … 7, stored as 0 … 15.
static Rounding rounding4(float scale, float low, bool has_zeros) {
    float zero = 8.0f;
    if (has_zeros && scale != 0.0f) {
        zero = static_cast<float>(static_cast<int>(-low / scale + 0.5f));
        zero = zero > 15.0f ? 15.0f : zero;
    }
    return {scale, zero, 0.0f, 15.0f};
}

// Of a few scales that of the least squared error.
static Rounding best_rounding4(const float* w, int64_t vectors, bool has_zeros) {
    float low, high, scales[lanes], errors[num_ranges];
    extremes(w, vectors, &low, &high);
    // The larger extreme becomes -8, so that the scale may be negative.
    const float widest = has_zeros ? (high - low) / 15.0f : (high > -low ? -high : -low) / 8.0f;
    // In double, rounded once, as processors that fuse multiply and add do it: the same scales on all.
    for (int i = 0; i < lanes; ++i) scales[i] = widest * static_cast<float>(double{1.1f} - double{0.035f} * i);
    store(scales, shortened(load<f32x16>(scales)));
    if (!has_zeros && vectors == 2)
        symmetric_errors<2>(w, scales, errors);
    else if (!has_zeros && vectors == 4)
        symmetric_errors<4>(w, scales, errors);
    else if (!has_zeros && vectors == 8)
        symmetric_errors<8>(w, scales, errors);
    else
        for (int i = 0; i < num_ranges; ++i)
            errors[i] = squared_error(w, vectors, rounding4(scales[i], low, has_zeros));
    int best = 0;
    for (int i = 1; i < num_ranges; ++i)
        if (errors[i] < errors[best]) best = i;
    return rounding4(scales[best], low, has_zeros);
}

static Rounding rounding8(const float* w, int64_t vectors) {
    float low, high;
    extremes(w, vectors, &low, &high);
    return {(high > -low ? high : -low) / 127.0f, 0.0f, -127.0f, 127.0f};
}

// The index of the entry nearest to w / scale, the first of equals.
SEGUE_INLINE f32x16 nearest_entry(f32x16 w, float scale, const float* table) {
    f32x16 x = w * (scale != 0.0f ? 1.0f / scale : 0.0f);
    f32x16 least = abs(x - table[0]), code{};
    for (int i = 1; i < 16; ++i) {
        f32x16 distance = abs(x - table[i]);
        code = distance < least ? broadcast(static_cast<float>(i)) : code;
        least = distance < least ? distance : least;
    }
    return code;
}

// Weights of a group, filled up with zeros to whole vectors.
static void quantize_weights(const QuantizeCall& call, const float* w, int64_t count, int64_t group) {
    const int64_t vectors = (count + lanes - 1) / lanes;
    Rounding rounding{};
    if (call.table) {
        float low, high;
        extremes(w, vectors, &low, &high);
        rounding.scale = shortened(broadcast(high > -low ? high : -low))[0];
    } else {
        rounding = call.bits == 8 ? rounding8(w, vectors) : best_rounding4(w, vectors, call.zeros != nullptr);
    }
    call.scales[group] = rounding.scale;
    if (call.zeros) call.zeros[group] = static_cast<uint8_t>(rounding.zero);
    uint8_t* to = call.codes + group * call.group;
    for (int64_t i = 0; i < vectors; ++i, to += lanes) {
        f32x16 x = load<f32x16>(w + i * lanes);
        f32x16 codes = call.table ? nearest_entry(x, rounding.scale, call.table) : codes_of(x, rounding);
        u8x16 bytes = __builtin_convertvector(__builtin_convertvector(codes, i32x16), u8x16);
        const int64_t left = count - i * lanes;
        if (left >= lanes)
            memcpy(to, &bytes, sizeof bytes);
        else
            memcpy(to, &bytes, static_cast<size_t>(left));
    }
}

static void widen(const void* from, WeightKind kind, int64_t begin, int64_t count, float* to) {
    const int64_t size = kind == WeightKind::f32 ? 4 : 2, whole = count / lanes * lanes;
    const uint8_t* bytes = static_cast<const uint8_t*>(from) + begin * size;
    alignas(64) uint8_t rest[4 * lanes] = {};
    memcpy(rest, bytes + whole * size, static_cast<size_t>((count - whole) * size));
    for (int64_t i = 0; i < count; i += lanes) {
        const uint8_t* at = i < whole ? bytes + i * size : rest;
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(at);
        store(to + i, kind == WeightKind::f32    ? load<f32x16>(at)
                      : kind == WeightKind::bf16 ? from_bf16(halves)
                                                 : from_f16(halves));
    }
}

static void quantize_row(const QuantizeCall& call) {
    for (int64_t group = 0; group * call.group < call.k; ++group) {
        int64_t begin = group * call.group, left = call.k - begin, count = left < call.group ? left : call.group;
        widen(call.row, call.kind, begin, count, call.buffer);
        quantize_weights(call, call.buffer, count, group);
    }
}

}  // namespace segue::SEGUE_ISA
