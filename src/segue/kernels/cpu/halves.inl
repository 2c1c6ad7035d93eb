// 16-bit floats: 16 of them to floats and back, to nearest even.
#pragma once

#include "isa.h"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

SEGUE_INLINE f32x16 from_f16(const uint16_t* from) {
#if defined(__AVX512F__)
    return bits_of<f32x16>(_mm512_maskz_cvtph_ps(0xffff, load<__m256i>(from)));
#elif defined(__F16C__)
    __m256 halves[2] = {_mm256_cvtph_ps(load<__m128i>(from)), _mm256_cvtph_ps(load<__m128i>(from + 8))};
    return load<f32x16>(halves);
#else
    u32x16 h = __builtin_convertvector(load<u16x16>(from), u32x16);
    u32x16 magnitude = (h & 0x7fff) << 13;
    // Exponents differ by 112. A product moves them, and makes subnormals normal.
    u32x16 finite = bits_of<u32x16>(bits_of<f32x16>(magnitude) * 5.192296859e33f);
    // Infinity and NaN: an exponent of all ones. Their bit 16 is set after an addition of one in the exponent's place.
    u32x16 special = 0 - (((h & 0x7fff) + 0x400) >> 15);
    u32x16 bits = finite | (special & 0x7f800000);
    return bits_of<f32x16>(bits | ((h & 0x8000) << 16));
#endif
}

// All ones where a < b, both of them being magnitudes' bits.
SEGUE_INLINE i32x16 below(i32x16 a, int32_t b) { return (a - b) >> 31; }

SEGUE_INLINE i32x16 f16_of(i32x16 magnitude) {
    i32x16 normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112 << 23)) >> 13;
    // Below 2^-14: adding 0.5 rounds to a multiple of 2^-24, a subnormal's unit.
    i32x16 subnormal = bits_of<i32x16>(bits_of<f32x16>(magnitude) + 0.5f) - (126 << 23);
    i32x16 is_subnormal = below(magnitude, 113 << 23), is_finite = below(magnitude, 0x477ff000);
    i32x16 special = 0x7c00 - (~below(magnitude, 0x7f800001) & -0x200);
    i32x16 finite = (subnormal & is_subnormal) | (normal & ~is_subnormal);
    return (finite & is_finite) | (special & ~is_finite);
}

SEGUE_INLINE void store_f16(uint16_t* to, f32x16 x) {
#if defined(__AVX512F__)
    store(to, _mm512_maskz_cvtps_ph(0xffff, bits_of<__m512>(x), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    __m256 halves[2];
    store(halves, x);
    store(to, _mm256_cvtps_ph(halves[0], _MM_FROUND_TO_NEAREST_INT));
    store(to + 8, _mm256_cvtps_ph(halves[1], _MM_FROUND_TO_NEAREST_INT));
#else
    i32x16 sign = (bits_of<i32x16>(x) >> 16) & 0x8000, magnitude = bits_of<i32x16>(x) & 0x7fffffff;
    store(to, __builtin_convertvector(f16_of(magnitude) | sign, u16x16));
#endif
}

SEGUE_INLINE void store_bf16(uint16_t* to, f32x16 x) {
    i32x16 bits = bits_of<i32x16>(x);
    i32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    i32x16 is_nan = (0x7f800000 - (bits & 0x7fffffff)) >> 31;
    store(to, __builtin_convertvector((rounded & ~is_nan) | (((bits >> 16) | 0x40) & is_nan), u16x16));
}

}  // namespace segue::SEGUE_ISA
