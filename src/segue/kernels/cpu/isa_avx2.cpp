#define SEGUE_ISA avx2
#include "isa.inl"
