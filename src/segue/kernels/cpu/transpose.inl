// Transposing a square of registers.
#pragma once

#include "vector_math.inl"

namespace segue::SEGUE_ISA {

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

}  // namespace segue::SEGUE_ISA
