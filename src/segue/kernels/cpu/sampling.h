// From logits to ids. Every decision that compares a sum of probabilities with something is made on whole numbers, as in
// segue/sampling/masses.py, which has the definitions; the results are those of the processors there.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace segue {

constexpr int64_t logit_chunk = 64;  // logits whose largest, or whose mass, is kept: a search looks into few of them

// What is known of some logits: sum is that of exp(x - peak), NaN where the logits hold NaN or +inf.
struct Sum {
    float peak;
    double sum;
    int64_t near;  // the first logit that is `peak` is among the peak_block from here on
};

constexpr int64_t peak_block = 512;  // 2 KiB: read for its largest, it is still in the first cache for its sum

struct SamplingKernels {
    // Of x[count].
    Sum (*sum)(const float* x, int64_t count);
    // largest[c]: of the c-th chunk of x[count]; NaN where the chunk holds one.
    void (*maxima)(const float* x, int64_t count, float* largest);
    // masses[i] = exp(x[i] - peak) in units of 1 / unit, rounded down.
    void (*masses)(const float* x, int64_t count, float peak, float unit, int64_t* masses);
    // sums[c]: the masses of the c-th chunk.
    void (*mass_sums)(const float* x, int64_t count, float peak, float unit, int64_t* sums);
    // x becomes -inf where it is below `least`.
    void (*drop_below)(float* x, int64_t count, float least);
};

// Rows of logits [vocab_size] float32, `stride` apart.
struct LogitRows {
    float* data;
    int64_t stride, vocab_size;
};

struct Chosen {
    int64_t id;
    float logprob;    // (logit - peak) - log_total; NaN where no token can be chosen
    float peak;       // the row's largest logit; NaN if there is a NaN
    float log_total;  // the logarithm of the sum of exp(logit - peak)
};

// For each row the largest logit's id where its uniform is negative, else the one drawn by that number in [0, 1).
std::vector<Chosen> choose(const LogitRows& rows, const std::vector<double>& uniforms);

// Each row's largest logit, NaN if it holds one.
std::vector<float> peaks_of(const LogitRows& rows, int64_t count);

// A row of `size` logits keeps those that are at least its limit-th largest.
void keep_top_k(float* logits, int64_t size, int64_t limit);

// It keeps the fewest ids that hold `share` of its mass; of equal logits the higher ids.
void keep_top_p(float* logits, int64_t size, double share);

// It keeps the fewest ids that hold `share` of its mass of those whose distance below the peak is nearest to its mean, and
// all that tie with the last.
void keep_typical(float* logits, int64_t size, double share);

using Alternatives = std::vector<std::pair<int64_t, float>>;  // ids and logprobs

// The `count` likeliest of a row of which `chosen` was found: the best first, of equals the lower id. With all that tie with
// the last; without those that have no probability.
Alternatives likeliest(float* logits, int64_t size, int64_t count, const Chosen& chosen);

// The same for rows[i] with limits[i] or shares[i].
void keep_top_k(const LogitRows& logits, const std::vector<int64_t>& rows, const std::vector<int64_t>& limits);
void keep_top_p(const LogitRows& logits, const std::vector<int64_t>& rows, const std::vector<double>& shares);
void keep_typical(const LogitRows& logits, const std::vector<int64_t>& rows, const std::vector<double>& shares);

}  // namespace segue
