// Matrix products on prepacked weights, by kind.
#pragma once

#include "linear_float.inl"

namespace segue::SEGUE_ISA {

static void run_linear(const Linear& weight, const LinearCall& call, const Slice& slice) {
    switch (weight.kind) {
        case WeightKind::f32: return run_float<F32>(weight, call, slice);
        case WeightKind::f16: return run_float<F16>(weight, call, slice);
        case WeightKind::bf16: return run_float<BF16>(weight, call, slice);
        case WeightKind::i8:
        case WeightKind::i8w:
        case WeightKind::i4:
        case WeightKind::i4w: return;
    }
}

static constexpr LinearKernels linear_kernels = {run_linear};

}  // namespace segue::SEGUE_ISA
