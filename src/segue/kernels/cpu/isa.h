// Vectors of 16 floats in the compiler's own vector types: one source for AVX-512, AVX2, NEON and plain processors.
//
// Every file NAME.inl is compiled once for each instruction set (isa_*.cpp), inside the namespace SEGUE_ISA. Such a file
// must define nothing outside it and instantiate no template of the standard library: of several copies of one inline
// function the linker keeps any, and a copy with AVX-512 in it kills a processor that has none.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

#ifndef SEGUE_ISA
#error "compile isa_*.cpp, which name the instruction set"
#endif

namespace segue::SEGUE_ISA {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

constexpr int lanes = 16;

template <class V>
static inline V load(const void* from) {
    V v;
    memcpy(&v, from, sizeof v);  // one unaligned load
    return v;
}

template <class V>
static inline void store(void* to, V v) {
    typedef V anywhere __attribute__((aligned(1), may_alias));
    *static_cast<anywhere*>(to) = v;  // memcpy would go through the stack where V is several registers
}

static inline f32x16 broadcast(float x) { return x - f32x16{}; }

// bfloat16: the upper half of a float.
static inline f32x16 from_bf16(const uint16_t* from) {
    u32x16 bits = __builtin_convertvector(load<u16x16>(from), u32x16) << 16;
    return load<f32x16>(&bits);
}

}  // namespace segue::SEGUE_ISA
