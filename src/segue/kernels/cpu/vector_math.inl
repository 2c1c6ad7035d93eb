// Elementary functions of a register of floats, each within a few units of the last place; NaN in gives NaN out.
// Polynomials: minimax fits of the functions named beside them, made for this file (weighted least squares, Lawson's).
#pragma once

#include "isa.h"

namespace segue::SEGUE_ISA {

#define SEGUE_INLINE static inline __attribute__((always_inline))

// What one register holds. GCC keeps wider vectors in memory, and compares and selects them one element at a time: what
// does more than a little arithmetic works on these, and `each_register` applies it to 16 floats.
#if defined(__AVX512F__)
constexpr int register_bytes = 64;
#elif defined(__AVX2__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif
typedef float f32xr __attribute__((vector_size(register_bytes)));
typedef int32_t i32xr __attribute__((vector_size(register_bytes)));
constexpr int register_lanes = register_bytes / 4;
constexpr int registers = lanes / register_lanes;

template <class To, class From>
SEGUE_INLINE To bits_of(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <class Function>
SEGUE_INLINE f32x16 each_register(f32x16 x, const Function& function) {
    f32xr part[registers];
    memcpy(part, &x, sizeof part);
    for (int i = 0; i < registers; ++i) part[i] = function(part[i]);
    return bits_of<f32x16>(part);
}

template <class V>
SEGUE_INLINE V load_first(const float* from, int64_t count) {
    constexpr int64_t width = sizeof(V) / sizeof(float);
    if (count >= width) return load<V>(from);
    float whole[width] = {};
    for (int64_t i = 0; i < count; ++i) whole[i] = from[i];
    return load<V>(whole);
}

template <class V>
SEGUE_INLINE void store_first(float* to, V v, int64_t count) {
    constexpr int64_t width = sizeof(V) / sizeof(float);
    if (count >= width) return store(to, v);
    float whole[width];
    store(whole, v);
    for (int64_t i = 0; i < count; ++i) to[i] = whole[i];
}

SEGUE_INLINE f32xr all(float x) { return x - f32xr{}; }

SEGUE_INLINE f32xr min(f32xr a, f32xr b) { return a < b ? a : b; }  // b where either is NaN
SEGUE_INLINE f32xr max(f32xr a, f32xr b) { return a > b ? a : b; }

SEGUE_INLINE f32xr abs(f32xr x) { return bits_of<f32xr>(bits_of<i32xr>(x) & 0x7fffffff); }

SEGUE_INLINE f32xr copy_sign(f32xr magnitude, f32xr sign) {
    return bits_of<f32xr>((bits_of<i32xr>(magnitude) & 0x7fffffff) | (bits_of<i32xr>(sign) & INT32_MIN));
}

// The upper half of the first 2 * `half` lanes, moved down.
template <int half>
SEGUE_INLINE f32xr upper_half(f32xr v) {
    i32xr from{};
    for (int i = 0; i < register_lanes; ++i) from[i] = (i + half) % register_lanes;
    return __builtin_shuffle(v, from);
}

// By halves: in a fixed order.
SEGUE_INLINE float sum_of(f32xr v) {
    if constexpr (register_lanes == 16) v += upper_half<8>(v);
    if constexpr (register_lanes >= 8) v += upper_half<4>(v);
    v += upper_half<2>(v);
    v += upper_half<1>(v);
    return v[0];
}

SEGUE_INLINE float max_of(f32xr v) {
    if constexpr (register_lanes == 16) v = max(v, upper_half<8>(v));
    if constexpr (register_lanes >= 8) v = max(v, upper_half<4>(v));
    v = max(v, upper_half<2>(v));
    v = max(v, upper_half<1>(v));
    return v[0];
}

// exp(x + tail), |tail| small: what is left of an argument that a float cannot hold exactly.
SEGUE_INLINE f32xr exp_of_sum(f32xr x, f32xr tail) {
    constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
    x = x < -110.0f ? all(-110.0f) : x;
    x = x > 100.0f ? all(100.0f) : x;
    f32xr shifted = x * 1.44269504f + rounder;
    f32xr whole = shifted - rounder;
    f32xr r = (x - whole * 0.693145752f) - whole * 1.42860677e-6f + tail;
    f32xr p = r * 1.390129861e-3f + 8.363200040e-3f;  // (exp(r) - 1 - r) / r^2
    p = p * r + 4.166685423e-2f;
    p = p * r + 1.666657696e-1f;
    p = p * r + 4.999999955e-1f;
    p = (p * r) * r + r + 1.0f;
    // 2^n as a product of two powers, each a normal float, so that results fade out and overflow as they should.
    i32xr n = bits_of<i32xr>(shifted) - bits_of<i32xr>(all(rounder));
    i32xr half = n >> 1;
    return p * bits_of<f32xr>((half + 127) << 23) * bits_of<f32xr>((n - half + 127) << 23);
}

// exp(x) of -87 <= x <= 0; NaN stays.
SEGUE_INLINE f32xr exp_of_normal_result(f32xr x) {
    constexpr float rounder = 12582912.0f;
    f32xr shifted = x * 1.44269504f + rounder;
    f32xr whole = shifted - rounder;
    f32xr r = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
    f32xr p = r * 1.390129861e-3f + 8.363200040e-3f;
    p = p * r + 4.166685423e-2f;
    p = p * r + 1.666657696e-1f;
    p = p * r + 4.999999955e-1f;
    p = (p * r) * r + r + 1.0f;
    i32xr n = bits_of<i32xr>(shifted) - bits_of<i32xr>(all(rounder));
    return p * bits_of<f32xr>((n + 127) << 23);
}

// exp(x) of x <= 0, and 0 where that is below the smallest normal float.
SEGUE_INLINE f32xr exp_of_nonpositive(f32xr x) {
    f32xr result = exp_of_normal_result(max(x, all(-87.0f)));
    return x < -87.0f ? f32xr{} : result;
}

SEGUE_INLINE f32xr exp(f32xr x) { return exp_of_sum(x, f32xr{}); }

SEGUE_INLINE f32xr tanh(f32xr x) {
    f32xr t = abs(x), s = x * x;
    f32xr p = s * 2.292830171e-3f - 8.344029206e-3f;  // (tanh(√s) / √s - 1) / s up to √s = 0.625
    p = p * s + 2.176894740e-2f;
    p = p * s - 5.395926362e-2f;
    p = p * s + 1.333330358e-1f;
    p = p * s - 3.333333317e-1f;
    f32xr near = (p * s) * x + x;
    f32xr far = 1.0f - 2.0f / (exp(t + t) + 1.0f);
    return t > 0.625f ? copy_sign(far, x) : near;
}

// The normal distribution's mass beyond |x|: half of erfc(|x| / √2), with a small relative error down to its end.
SEGUE_INLINE f32xr normal_tail(f32xr x) {
    f32xr t = abs(x);
    f32xr u = 1.0f / (t * 0.25f + 1.0f);
    f32xr p = u * 1.657963225e-2f - 6.279203793e-2f;  // exp(t^2 / 2) * tail(t) / u up to t = 14
    p = p * u + 5.165198214e-2f;
    p = p * u + 2.843647091e-2f;
    p = p * u + 1.271115954e-2f;
    p = p * u + 8.665735090e-2f;
    p = p * u + 7.199922278e-2f;
    p = p * u + 9.551577017e-2f;
    p = p * u + 9.949254935e-2f;
    p = p * u + 9.974790397e-2f;
    // t^2 = high^2 + (t - high)(t + high), where high^2 is exact.
    f32xr high = bits_of<f32xr>(bits_of<i32xr>(t) & ~0xfff);
    f32xr low = (t - high) * (t + high);
    low = t > 15.0f ? f32xr{} : low;  // beyond it all is 0, and infinity - infinity must not come in
    return p * u * exp_of_sum(high * high * -0.5f, low * -0.5f);
}

#if !defined(__AVX512F__)
// The same of 16 floats, for where speed does not matter.
SEGUE_INLINE f32x16 abs(f32x16 x) {
    return each_register(x, [](f32xr part) { return abs(part); });
}

SEGUE_INLINE f32x16 exp(f32x16 x) {
    return each_register(x, [](f32xr part) { return exp(part); });
}

template <class Function>
SEGUE_INLINE f32x16 each_register(f32x16 a, f32x16 b, const Function& function) {
    f32xr x[registers], y[registers];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    for (int i = 0; i < registers; ++i) x[i] = function(x[i], y[i]);
    return bits_of<f32x16>(x);
}

SEGUE_INLINE f32x16 min(f32x16 a, f32x16 b) {
    return each_register(a, b, [](f32xr x, f32xr y) { return min(x, y); });
}

SEGUE_INLINE f32x16 max(f32x16 a, f32x16 b) {
    return each_register(a, b, [](f32xr x, f32xr y) { return max(x, y); });
}

SEGUE_INLINE float sum_of(f32x16 v) {
    f32xr part[registers];
    memcpy(part, &v, sizeof part);
    for (int half = registers / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) part[i] += part[i + half];
    return sum_of(part[0]);
}

SEGUE_INLINE float max_of(f32x16 v) {
    f32xr part[registers];
    memcpy(part, &v, sizeof part);
    for (int i = 1; i < registers; ++i) part[0] = max(part[0], part[i]);
    return max_of(part[0]);
}
#endif

}  // namespace segue::SEGUE_ISA
