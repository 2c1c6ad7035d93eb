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

// A scale that 16 bits hold where one is near enough.
static float shortened(float scale) {
    float size = scale < 0.0f ? -scale : scale;
    if (size < 6.103515625e-5f || size > 65504.0f) return scale;
    uint16_t half[lanes];
    store_f16(half, broadcast(scale));
    float whole[lanes];
    store(whole, from_f16(half));
    return whole[0];
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

// Of a few scales around the one that just reaches the extremes, that of the least squared error.
static Rounding best_rounding4(const float* w, int64_t vectors, bool has_zeros) {
    float low, high;
    extremes(w, vectors, &low, &high);
    const float widest = has_zeros ? (high - low) / 15.0f : (high > -low ? -high : -low) / 8.0f;
    Rounding best{};
    float least = 0.0f;
    for (int i = 0; i < 12; ++i) {
        // Symmetric codes are -8 … 7: the larger extreme becomes -8, so that the scale may be negative.
        float scale = shortened(widest * (1.1f - 0.035f * static_cast<float>(i)));
        float zero = 8.0f;
        if (has_zeros && scale != 0.0f) {
            zero = static_cast<float>(static_cast<int>(-low / scale + 0.5f));
            zero = zero > 15.0f ? 15.0f : zero;
        }
        Rounding rounding{scale, zero, 0.0f, 15.0f};
        float error = squared_error(w, vectors, rounding);
        if (i == 0 || error < least) {
            least = error;
            best = rounding;
        }
    }
    return best;
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
        rounding.scale = shortened(high > -low ? high : -low);
    } else {
        rounding = call.bits == 8 ? rounding8(w, vectors) : best_rounding4(w, vectors, call.zeros != nullptr);
    }
    call.scales[group] = rounding.scale;
    if (call.zeros) call.zeros[group] = static_cast<uint8_t>(rounding.zero);
    for (int64_t i = 0; i < vectors; ++i) {
        f32x16 x = load<f32x16>(w + i * lanes);
        f32x16 codes = call.table ? nearest_entry(x, rounding.scale, call.table) : codes_of(x, rounding);
        u8x16 bytes = __builtin_convertvector(__builtin_convertvector(codes, i32x16), u8x16);
        int64_t left = count - i * lanes;
        memcpy(call.codes + group * call.group + i * lanes, &bytes, static_cast<size_t>(left < lanes ? left : lanes));
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
