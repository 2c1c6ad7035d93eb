// All kernels of one instruction set; isa_*.cpp define SEGUE_ISA and include this.
#include "isa.h"
#include "kernels.h"

#include "activations.inl"
#include "halves.inl"
#include "attention.inl"
#include "linear.inl"
#include "rows.inl"
#include "sampling.inl"

#define SEGUE_TEXT_OF(name) #name
#define SEGUE_NAME_OF(name) SEGUE_TEXT_OF(name)

namespace segue::SEGUE_ISA {

extern const Kernels table;
const Kernels table = {SEGUE_NAME_OF(SEGUE_ISA), linear_kernels, row_kernels, attention_kernels, sampling_kernels};

}  // namespace segue::SEGUE_ISA
