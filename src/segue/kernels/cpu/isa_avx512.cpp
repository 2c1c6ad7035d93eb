#define SEGUE_ISA avx512
#include "isa.inl"
