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
    u32x16 bits = (h & 0x7c00) == 0x7c00 ? (magnitude | 0x7f800000) : finite;
    return bits_of<f32x16>(bits | ((h & 0x8000) << 16));
#endif
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
    u32x16 sign = (bits_of<u32x16>(x) >> 16) & 0x8000, magnitude = bits_of<u32x16>(x) & 0x7fffffff;
    u32x16 normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
    // Below 2^-14: adding 0.5 rounds to a multiple of 2^-24, a subnormal's unit.
    u32x16 subnormal = bits_of<u32x16>(bits_of<f32x16>(magnitude) + 0.5f) - (126u << 23);
    u32x16 h = magnitude < (113u << 23) ? subnormal : normal;
    h = magnitude >= 0x477ff000 ? (h & 0) | 0x7c00 : h;
    h = magnitude > 0x7f800000 ? (h & 0) | 0x7e00 : h;
    store(to, __builtin_convertvector(h | sign, u16x16));
#endif
}

SEGUE_INLINE void store_bf16(uint16_t* to, f32x16 x) {
    u32x16 bits = bits_of<u32x16>(x);
    u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u32x16 nan = (bits >> 16) | 0x40;
    store(to, __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded, u16x16));
}

}  // namespace segue::SEGUE_ISA
