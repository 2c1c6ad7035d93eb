// The table of functions that exist once an instruction set, and the one for this processor.
#pragma once

#include <string>
#include <vector>

#include "attention.h"
#include "linear.h"
#include "rows.h"
#include "sampling.h"

namespace segue {

struct Kernels {
    const char* isa;
    LinearKernels linear;
    RowKernels rows;
    AttentionKernels attention;
    SamplingKernels sampling;
};

// The best that this processor runs; SEGUE_CPU_ISA, where set, is the name of a lesser one.
// Throws std::runtime_error if it names one that is unknown or that the processor lacks.
const Kernels& kernels();

// Names of the instruction sets of this build that the processor runs, the best first.
std::vector<std::string> available_isas();
// For tests: from here on `kernels()` is this one.
void use_isa(const std::string& name);

}  // namespace segue
