// Runs the kernels where there is no Python to call them from (test_cpu_arm.py): arm_driver THREADS INPUT OUTPUT.
//
// The input is cases, each the number of an operator and what that reads, in its order: whole numbers (int64), real ones
// (float64), arrays (their number of bytes, int64, then these; none: a null pointer). The output: an array of float32 each.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <vector>

#include "kernels.h"
#include "pack.h"
#include "team.h"

namespace segue {
namespace {

using Floats = std::vector<float>;

class Input {
  public:
    explicit Input(const char* path) : file_(std::fopen(path, "rb")) {}

    bool is_at_end() {
        arrays_.clear();
        return std::ungetc(std::fgetc(file_), file_) == EOF;
    }

    int64_t whole() { return read<int64_t>(); }
    bool flag() { return whole() != 0; }
    float real() { return static_cast<float>(read<double>()); }

    template <class T>
    T* array() {
        arrays_.emplace_back(static_cast<size_t>(whole()));
        std::vector<std::byte>& bytes = arrays_.back();
        read_into(bytes.data(), bytes.size());
        return bytes.empty() ? nullptr : reinterpret_cast<T*>(bytes.data());
    }

  private:
    template <class T>
    T read() {
        T value;
        read_into(&value, sizeof value);
        return value;
    }

    void read_into(void* to, size_t size) {
        if (std::fread(to, 1, size, file_) == size) return;
        std::fputs("the input is cut off\n", stderr);
        std::exit(1);
    }

    std::FILE* file_;
    std::list<std::vector<std::byte>> arrays_;  // of one case
};

// NaN, as 16-bit floats too.
Floats blank(int64_t count) {
    Floats made(static_cast<size_t>(count));
    std::memset(made.data(), 255, made.size() * sizeof(float));
    return made;
}

template <class Function, class... Call>
void run(Function function, const Call&... call) {
    Team::get().run([&](const Slice& slice) { function(call..., slice); });
}

enum class Weights { floats, rounded, codes };

Packed weight_in(Input& in) {
    const Weights how = Weights(in.whole());
    const WeightKind kind = WeightKind(in.whole());
    const int64_t n = in.whole(), k = in.whole(), group = in.whole();
    const bool gated = in.flag(), has_zeros = in.flag();
    const WeightKind given = WeightKind(in.whole());
    const auto* data = in.array<const uint8_t>();
    const auto* scales = in.array<const float>();
    const auto* zeros = in.array<const uint8_t>();
    const IntFormat format{kind, group, in.array<const float>()};
    const auto* permutation = in.array<const int32_t>();
    const auto* bias = in.array<const float>();
    if (how == Weights::codes) return pack_codes(format, {data, scales, zeros, permutation}, n, k, bias, gated);
    const FloatParts parts{{data, given, k, n}};
    if (how == Weights::rounded) return quantize_linear(format, parts, n, k, has_zeros, bias, gated);
    return pack_float(kind, parts, n, k, bias, gated);
}

// The product with the first rows of x, for each of the numbers of rows that are given.
Floats linear(Input& in) {
    const Packed packed = weight_in(in);
    const int64_t outputs = packed.linear.outputs(), num_counts = in.whole(), *counts = in.array<const int64_t>();
    LinearCall call{};
    call.x = in.array<const float>(), call.x_stride = packed.linear.k;
    call.residual = in.array<const float>(), call.residual_stride = call.out_stride = outputs;
    call.scale = in.real(), call.activation = Activation(in.whole());
    Floats all;
    for (int64_t i = 0; i < num_counts; ++i) {
        call.rows = counts[i];
        Floats out = blank(call.rows * outputs);
        std::vector<std::byte> scratch(linear_scratch_bytes(packed.linear, call.rows));
        call.out = out.data(), call.scratch = scratch.data();
        run(kernels().linear.run, packed.linear, call);
        all.insert(all.end(), out.begin(), out.end());
    }
    return all;
}

AttentionSpec spec_in(Input& in) {
    return {in.whole(), in.whole(), in.whole(), in.whole(), in.real(), in.flag(), in.whole(), in.real(),
            in.array<const float>(), false, nullptr, 0, in.array<const float>()};
}

// Packed where the block size is 0. Else keys and values are written into a cache before, which holds NaN elsewhere; both
// layouts of it have to give the same.
Floats attention(Input& in) {
    AttentionCall call{};
    call.spec = spec_in(in);
    const AttentionSpec& spec = call.spec;
    call.sequences = {in.whole(), in.array<const int64_t>(), in.array<const int64_t>(), in.array<const int64_t>(),
                      in.whole()};
    call.q = in.array<const float>(), call.k = in.array<const float>(), call.v = in.array<const float>();
    call.q_stride = spec.num_heads * spec.key_dim, call.out_stride = spec.num_heads * spec.value_dim;
    call.k_stride = spec.kv_heads * spec.key_dim, call.v_stride = spec.kv_heads * spec.value_dim;
    const CacheKind kind = CacheKind(in.whole());
    const int64_t block_size = in.whole(), places = in.whole() * block_size, keys = in.whole();
    const auto* slots = in.array<const int64_t>();
    Floats out = blank(call.sequences.query_starts[call.sequences.count] * call.out_stride);
    std::vector<std::byte> scratch(attention_scratch_bytes(spec, call.sequences, Team::get().size()));
    call.out = out.data(), call.scratch = scratch.data();
    if (block_size == 0) {
        run(kernels().attention.packed, call);
        return out;
    }
    Floats results[2];
    for (const bool by_heads : {false, true}) {
        Floats key_memory = blank(places * call.k_stride), value_memory = blank(places * call.v_stride);
        Floats key_scales(static_cast<size_t>(places * spec.kv_heads), 9.0f), value_scales = key_scales;
        call.cache = {key_memory.data(), value_memory.data(), key_scales.data(), value_scales.data(), kind,    block_size,
                      spec.kv_heads,     spec.key_dim,        spec.value_dim,    by_heads,            by_heads};
        run(kernels().attention.write, WriteCall{call.k, call.v, call.k_stride, call.v_stride, keys, slots, call.cache});
        run(kernels().attention.paged, call);
        results[by_heads] = out;
    }
    if (results[0] != results[1]) std::abort();
    return out;
}

Floats norm(Input& in) {
    NormCall call{};
    call.x = in.array<const float>(), call.rows = in.whole(), call.dim = in.whole(), call.groups = 1;
    call.x_stride = call.x_group_stride = call.out_stride = call.out_group_stride = call.dim;
    call.weight = in.array<const float>(), call.bias = in.array<const float>();
    call.eps = in.real(), call.centered = in.flag();
    Floats out = blank(call.rows * call.dim);
    call.out = out.data();
    run(kernels().rows.norm, call);
    return out;
}

Floats rotary(Input& in) {
    const int64_t rows = in.whole(), heads = in.whole(), dim = in.whole(), pairs = in.whole();
    Floats both = blank(rows * 2 * pairs);
    AnglesCall angles{in.array<const int64_t>(), nullptr, rows, pairs, in.array<const float>(), nullptr,
                      in.real(), 1.0f, both.data()};
    run(kernels().rows.angles, angles);
    RotateCall call{in.array<float>(), heads * dim, rows, heads, dim, pairs, in.flag(), both.data()};
    run(kernels().rows.rotate, call);
    return Floats(call.x, call.x + rows * heads * dim);
}

// (id, logprob) of each row.
Floats sample(Input& in) {
    const int64_t rows = in.whole(), vocab_size = in.whole();
    const LogitRows logits{in.array<float>(), vocab_size, vocab_size};
    const auto *uniforms = in.array<const double>(), *shares = in.array<const double>();
    const auto* limits = in.array<const int64_t>();
    std::vector<int64_t> all;
    for (int64_t i = 0; i < rows; ++i) all.push_back(i);
    if (limits != nullptr) keep_top_k(logits, all, {limits, limits + rows});
    if (shares != nullptr) keep_top_p(logits, all, {shares, shares + rows});
    Floats out;
    for (const Chosen& each : choose(logits, {uniforms, uniforms + rows}))
        out.insert(out.end(), {static_cast<float>(each.id), each.logprob});
    return out;
}

}  // namespace
}  // namespace segue

int main(int, char** given) {
    segue::Team::get().resize(std::atoi(given[1]), false);
    segue::Input in(given[2]);
    std::FILE* file = std::fopen(given[3], "wb");
    segue::Floats (*const operators[])(segue::Input&) = {segue::linear, segue::attention, segue::norm, segue::rotary,
                                                         segue::sample};
    while (!in.is_at_end()) {
        const segue::Floats out = operators[in.whole()](in);
        const uint64_t num_bytes = out.size() * sizeof(float);
        std::fwrite(&num_bytes, sizeof num_bytes, 1, file);
        std::fwrite(out.data(), sizeof(float), out.size(), file);
    }
    return std::fclose(file);
}
