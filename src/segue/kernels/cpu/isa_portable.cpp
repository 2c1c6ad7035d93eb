#define SEGUE_ISA portable
#include "isa.inl"
