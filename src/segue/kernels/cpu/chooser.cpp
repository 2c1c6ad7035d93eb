#include "chooser.h"

#include <algorithm>

#include "team.h"

namespace segue {
namespace {

constexpr double smallest_temperature = 1e-30;  // as in sampling/processors/temperature.py

// SplitMix64, as in sampling/random_numbers.py.
uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
    return value ^ (value >> 31);
}

}  // namespace

Chooser::Chooser(SamplingParams params, uint64_t seed, const std::vector<int64_t>& history, int64_t num_prompt_tokens)
    : params_(std::move(params)), seed_(seed) {
    if (!params_.has_penalties()) return;
    for (size_t i = 0; i < history.size(); ++i) {
        Count& count = counts_[history[i]];
        ++count.all;
        count.generated += static_cast<int64_t>(i) >= num_prompt_tokens;
    }
    length_ = static_cast<int64_t>(history.size());
}

void Chooser::add(int64_t token_id) {
    if (!params_.has_penalties()) return;
    Count& count = counts_[token_id];
    ++count.all;
    ++count.generated;
    ++length_;
}

double Chooser::uniform(int64_t position) const {
    if (!params_.is_sampling) return -1.0;
    constexpr uint64_t gamma = 0x9E3779B97F4A7C15;
    const uint64_t start = mix(seed_ + gamma);
    return static_cast<double>(mix(start + (static_cast<uint64_t>(position) + 1) * gamma) >> 11) * 0x1p-53;
}

void Chooser::penalize(float* logits, int64_t vocab_size) const {
    const auto repetition = static_cast<float>(params_.repetition_penalty);
    const auto presence = static_cast<float>(params_.presence_penalty);
    for (const auto& [id, count] : counts_) {
        if (id < 0 || id >= vocab_size) continue;  // a placeholder of another modality
        float& logit = logits[id];
        if (params_.repetition_penalty != 1.0) logit = logit < 0.0f ? logit * repetition : logit / repetition;
        if (params_.frequency_penalty != 0.0)
            logit -= static_cast<float>(params_.frequency_penalty * static_cast<double>(count.all) /
                                        static_cast<double>(length_));
        if (params_.presence_penalty != 0.0 && count.generated > 0) logit -= presence;
    }
}

void Chooser::process(float* logits, int64_t vocab_size) const {
    penalize(logits, vocab_size);
    for (const auto& [id, bias] : params_.logit_bias)
        if (id < vocab_size) logits[id] += static_cast<float>(bias);
    if (!params_.is_sampling) return;
    if (params_.temperature != 1.0) {
        const auto divisor = static_cast<float>(std::max(params_.temperature, smallest_temperature));
        for (int64_t i = 0; i < vocab_size; ++i) logits[i] /= divisor;
    }
    if (params_.top_k > 0 && params_.top_k < vocab_size) keep_top_k(logits, vocab_size, params_.top_k);
    if (params_.top_p < 1.0) keep_top_p(logits, vocab_size, params_.top_p);
    if (params_.typical_p < 1.0) keep_typical(logits, vocab_size, params_.typical_p);
}

Alternatives Chooser::alternatives(float* logits, int64_t vocab_size, const Chosen& chosen) const {
    if (params_.top_n_tokens == 0) return {};
    return likeliest(logits, vocab_size, params_.top_n_tokens, chosen);
}

std::vector<NextToken> choose_next(const LogitRows& rows, const std::vector<Chooser>& choosers,
                                   const int64_t* positions) {
    std::vector<int64_t> changing;
    std::vector<double> uniforms;
    for (size_t i = 0; i < choosers.size(); ++i) {
        if (choosers[i].changes_logits()) changing.push_back(static_cast<int64_t>(i));
        uniforms.push_back(choosers[i].uniform(positions[i]));
    }
    if (!changing.empty())
        Team::get().run([&](const Slice& slice) {
            const Range mine = slice.part(static_cast<int64_t>(changing.size()));
            for (int64_t i = mine.begin; i < mine.end; ++i) {
                const int64_t row = changing[static_cast<size_t>(i)];
                choosers[static_cast<size_t>(row)].process(rows.data + row * rows.stride, rows.vocab_size);
            }
        });
    std::vector<NextToken> found;
    for (const Chosen& each : choose(rows, uniforms)) {
        const size_t row = found.size();
        float* logits = rows.data + static_cast<int64_t>(row) * rows.stride;
        found.push_back({each.id, each.logprob, choosers[row].alternatives(logits, rows.vocab_size, each)});
    }
    return found;
}

}  // namespace segue
