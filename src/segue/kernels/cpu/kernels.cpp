#include "kernels.h"

#include <cstdlib>
#include <stdexcept>

namespace segue {
namespace portable {
extern const Kernels table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
namespace avx512_vnni {
extern const Kernels table;
}
#endif

namespace {

struct Choice {
    const Kernels* table;
    bool is_available;
};

std::vector<Choice> choices() {
    std::vector<Choice> found;
#if defined(__x86_64__)
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    found.push_back({&avx512_vnni::table, has_avx512 && __builtin_cpu_supports("avx512vnni")});
    found.push_back({&avx512::table, has_avx512});
    found.push_back({&avx2::table, has_avx2});
#endif
    found.push_back({&portable::table, true});
    return found;
}

const Kernels* find(const std::string& name) {
    for (const Choice& choice : choices()) {
        if (name != choice.table->isa) continue;
        if (!choice.is_available) throw std::runtime_error("this processor lacks the instruction set " + name);
        return choice.table;
    }
    throw std::runtime_error("unknown instruction set " + name);
}

const Kernels* first() {
    if (const char* name = std::getenv("SEGUE_CPU_ISA")) return find(name);
    for (const Choice& choice : choices())
        if (choice.is_available) return choice.table;
    return &portable::table;
}

const Kernels*& chosen() {
    static const Kernels* table = first();
    return table;
}

}  // namespace

const Kernels& kernels() { return *chosen(); }

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Choice& choice : choices())
        if (choice.is_available) names.push_back(choice.table->isa);
    return names;
}

void use_isa(const std::string& name) { chosen() = find(name); }

}  // namespace segue
