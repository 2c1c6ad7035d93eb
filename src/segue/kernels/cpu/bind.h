// What each bind_*.cpp adds to the Python module `segue.kernels.cpu._native`.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "attention.h"

namespace segue {

// Addresses come from Python as integers: tensors' data_ptr().
template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// (number of sequences, query_starts, kv_lens, block_tables, table_width): addresses of int64 arrays.
using SequencesGiven = std::tuple<int64_t, uintptr_t, uintptr_t, uintptr_t, int64_t>;

inline Sequences sequences_of(const SequencesGiven& given) {
    auto [count, starts, lens, tables, width] = given;
    return {count, at<int64_t>(starts), at<int64_t>(lens), at<int64_t>(tables), width};
}

// Throws std::invalid_argument for a name that there is not.
Activation activation_named(const std::string& name);

void bind_attention(nanobind::module_& module);
void bind_linear(nanobind::module_& module);
void bind_program(nanobind::module_& module);
void bind_rows(nanobind::module_& module);
void bind_sampling(nanobind::module_& module);
void bind_step(nanobind::module_& module);
void bind_plain_step(nanobind::module_& module);

}  // namespace segue
