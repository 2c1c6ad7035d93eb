// Activation functions of 16 floats. NaN in gives NaN out.
#pragma once

#include "isa.h"
#include "linear.h"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

SEGUE_INLINE f32x16 sigmoid(f32x16 x) { return 1.0f / (1.0f + exp(-x)); }

SEGUE_INLINE f32x16 silu(f32x16 x) { return x / (1.0f + exp(-x)); }

SEGUE_INLINE f32x16 relu(f32x16 x) { return x < 0.0f ? f32x16{} : x; }

// x times the normal distribution's mass below x.
SEGUE_INLINE f32x16 gelu(f32x16 x) {
    f32x16 outside = x * normal_tail(x);
    outside = abs(x) > 15.0f ? f32x16{} : outside;  // infinity times 0
    return x < 0.0f ? outside : x - outside;
}

// x/2 (1 + tanh(y)) = x / (1 + exp(-2y)), which keeps its digits where tanh is close to -1.
SEGUE_INLINE f32x16 gelu_tanh(f32x16 x) {
    f32x16 y = x * (x * x * 0.044715f + 1.0f) * 0.7978845608f;
    f32x16 result = x / (1.0f + exp(y * -2.0f));
    return x < -15.0f ? f32x16{} : result;
}

// x tanh(log(1 + exp(x))), with e = exp(x): x e(e + 2) / (e(e + 2) + 2).
SEGUE_INLINE f32x16 mish(f32x16 x) {
    f32x16 e = exp(x > 30.0f ? broadcast(30.0f) : x);
    f32x16 n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}

SEGUE_INLINE f32x16 clip(f32x16 x, float low, float high) {
    x = x < low ? broadcast(low) : x;
    return x > high ? broadcast(high) : x;
}

static inline f32x16 activate(Activation activation, f32x16 x) {
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

}  // namespace segue::SEGUE_ISA
