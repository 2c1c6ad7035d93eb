#define SEGUE_ISA avx512_vnni
#include "isa.inl"
