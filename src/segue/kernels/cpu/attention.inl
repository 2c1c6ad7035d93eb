#include "attention.h"
namespace segue::SEGUE_ISA { static constexpr AttentionKernels attention_kernels = {}; }
