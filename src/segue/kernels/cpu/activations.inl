// Activation functions of a register of floats, and of 16 by name. NaN in gives NaN out.
#pragma once

#include "isa.h"
#include "linear.h"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

SEGUE_INLINE f32xr sigmoid(f32xr x) { return 1.0f / (1.0f + exp(-x)); }

SEGUE_INLINE f32xr silu(f32xr x) { return x / (1.0f + exp(-x)); }

SEGUE_INLINE f32xr relu(f32xr x) { return x < 0.0f ? f32xr{} : x; }

// x times the normal distribution's mass below x.
SEGUE_INLINE f32xr gelu(f32xr x) {
    f32xr outside = x * normal_tail(x);
    outside = abs(x) > 15.0f ? f32xr{} : outside;  // infinity times 0
    return x < 0.0f ? outside : x - outside;
}

// x/2 (1 + tanh(y)) = x / (1 + exp(-2y)), which keeps its digits where tanh is close to -1.
SEGUE_INLINE f32xr gelu_tanh(f32xr x) {
    f32xr y = x * (x * x * 0.044715f + 1.0f) * 0.7978845608f;
    f32xr result = x / (1.0f + exp(y * -2.0f));
    return x < -15.0f ? f32xr{} : result;
}

// x tanh(log(1 + exp(x))), with e = exp(x): x e(e + 2) / (e(e + 2) + 2).
SEGUE_INLINE f32xr mish(f32xr x) {
    f32xr e = exp(x > 30.0f ? all(30.0f) : x);
    f32xr n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}

SEGUE_INLINE f32xr clip(f32xr x, float low, float high) {
    x = x < low ? all(low) : x;
    return x > high ? all(high) : x;
}

static inline f32xr activate_register(Activation activation, f32xr x) {
    switch (activation) {
        case Activation::none: return x;
        case Activation::relu: return relu(x);
        case Activation::relu2: return relu(x) * relu(x);
        case Activation::relu6: return clip(x, 0.0f, 6.0f);
        case Activation::gelu: return gelu(x);
        case Activation::gelu_tanh: return gelu_tanh(x);
        case Activation::gelu_10: return clip(gelu(x), -10.0f, 10.0f);
        case Activation::silu: return silu(x);
        case Activation::quick_gelu: return x / (1.0f + exp(x * -1.702f));
        case Activation::tanh: return tanh(x);
        case Activation::sigmoid: return sigmoid(x);
        case Activation::mish: return mish(x);
    }
    return x;
}

static inline f32x16 activate(Activation activation, f32x16 x) {
    return each_register(x, [activation](f32xr part) { return activate_register(activation, part); });
}

}  // namespace segue::SEGUE_ISA
