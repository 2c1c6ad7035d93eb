// Memory that begins where a cache line does.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace segue {

template <class T>
using Aligned = std::unique_ptr<T, void (*)(void*)>;

template <class T>
Aligned<T> aligned(size_t bytes) {
    constexpr size_t line = 64;
    void* memory = std::aligned_alloc(line, (bytes + line - 1) / line * line);
    if (memory == nullptr) throw std::bad_alloc();
    return {static_cast<T*>(memory), std::free};
}

}  // namespace segue
