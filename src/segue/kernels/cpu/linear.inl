// Matrix products on prepacked weights, by kind.
#pragma once

#include "linear_codes.inl"
#include "linear_float.inl"
#include "linear_int.inl"
#include "linear_measure.inl"
#include "linear_pack.inl"

namespace segue::SEGUE_ISA {

static void run_linear(const Linear& weight, const LinearCall& call, const Slice& slice) {
    switch (weight.kind) {
        case WeightKind::f32: return run_float<FloatPanel<F32>>(weight, call, slice);
        case WeightKind::f16: return run_float<FloatPanel<F16>>(weight, call, slice);
        case WeightKind::bf16: return run_float<FloatPanel<BF16>>(weight, call, slice);
        case WeightKind::i8: return run_int<Codes8>(weight, call, slice);
        case WeightKind::i8w: return run_float<CodePanel<Decode8>>(weight, call, slice);
        case WeightKind::i4: return run_int<Codes4>(weight, call, slice);
        case WeightKind::i4w:
            if (weight.table || (native_lanes == 16 && !weight.zeros))
                return run_float<CodePanel<DecodeTable>>(weight, call, slice);
            return run_float<CodePanel<Decode4>>(weight, call, slice);
    }
}

static constexpr LinearKernels linear_kernels = {run_linear, quantize_columns, largest_weight, read_all, multiply_cached};

}  // namespace segue::SEGUE_ISA
