// Vectors as wide as the processor's registers, for loops that hold many sums in them. GCC keeps wider ones in memory.
#pragma once

#include "halves.inl"
#include "isa.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace segue::SEGUE_ISA {

constexpr int second_cache = 2;  // where __builtin_prefetch is to bring a line

#if defined(__AVX512F__)
constexpr int native_lanes = 16;
#elif defined(__AVX2__)
constexpr int native_lanes = 8;
#else
constexpr int native_lanes = 4;
#endif

typedef float fnative __attribute__((vector_size(4 * native_lanes)));
typedef int32_t inative __attribute__((vector_size(4 * native_lanes)));
typedef uint32_t unative __attribute__((vector_size(4 * native_lanes)));
typedef uint16_t hnative __attribute__((vector_size(2 * native_lanes)));
typedef uint8_t bnative __attribute__((vector_size(native_lanes)));

SEGUE_INLINE fnative splat(float x) { return x - fnative{}; }

SEGUE_INLINE inative splat(int32_t x) { return x - inative{}; }

// a * b + c. Spelled out where rows must not differ: whether the compiler fuses `a * b + c` hangs on the code around it.
SEGUE_INLINE fnative fused(fnative a, fnative b, fnative c) {
#if defined(__AVX512F__)
    return bits_of<fnative>(_mm512_fmadd_ps(bits_of<__m512>(a), bits_of<__m512>(b), bits_of<__m512>(c)));
#elif defined(__FMA__)
    return bits_of<fnative>(_mm256_fmadd_ps(bits_of<__m256>(a), bits_of<__m256>(b), bits_of<__m256>(c)));
#elif defined(__aarch64__)
    return bits_of<fnative>(vfmaq_f32(bits_of<float32x4_t>(c), bits_of<float32x4_t>(a), bits_of<float32x4_t>(b)));
#else
    return a * b + c;
#endif
}

SEGUE_INLINE fnative native_of_bf16(const uint16_t* from) {
#if defined(__AVX512F__)
    return bits_of<fnative>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(from)), 16));
#elif defined(__AVX2__)
    return bits_of<fnative>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(from)), 16));
#else
    return bits_of<fnative>(__builtin_convertvector(load<hnative>(from), unative) << 16);
#endif
}

SEGUE_INLINE fnative native_of_f16(const uint16_t* from) {
#if defined(__AVX512F__)
    return bits_of<fnative>(_mm512_cvtph_ps(load<__m256i>(from)));
#elif defined(__F16C__)
    return bits_of<fnative>(_mm256_cvtph_ps(load<__m128i>(from)));
#else
    unative h = __builtin_convertvector(load<hnative>(from), unative);
    unative magnitude = (h & 0x7fff) << 13;
    unative finite = bits_of<unative>(bits_of<fnative>(magnitude) * 5.192296859e33f);  // as in from_f16
    unative bits = (h & 0x7c00) == 0x7c00 ? (magnitude | 0x7f800000) : finite;
    return bits_of<fnative>(bits | ((h & 0x8000) << 16));
#endif
}

}  // namespace segue::SEGUE_ISA
