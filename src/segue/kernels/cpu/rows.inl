#include "rows.h"
namespace segue::SEGUE_ISA { static constexpr RowKernels row_kernels = {}; }
