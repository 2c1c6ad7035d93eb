#include "linear.h"
namespace segue::SEGUE_ISA { static void run(const Linear&, const LinearCall&, const Slice&) {} static constexpr LinearKernels linear_kernels = {run}; }
