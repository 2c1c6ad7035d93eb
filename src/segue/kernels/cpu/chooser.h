// From a sequence's logits to its next token: what segue/sampling does for a request that needs no more than its logits and
// its tokens, in the same order and with the same results.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sampling.h"

namespace segue {

// Names, meanings and neutral values are those of SamplingParams in core/request.py.
struct SamplingParams {
    bool is_sampling = false;
    double temperature = 1.0;
    int64_t top_k = 0;
    double top_p = 1.0, typical_p = 1.0, repetition_penalty = 1.0, frequency_penalty = 0.0, presence_penalty = 0.0;
    std::vector<std::pair<int64_t, double>> logit_bias;
    int64_t top_n_tokens = 0;

    bool changes_logits() const { return is_sampling || has_penalties() || !logit_bias.empty(); }
    bool has_penalties() const {
        return repetition_penalty != 1.0 || frequency_penalty != 0.0 || presence_penalty != 0.0;
    }
};

// One sequence's.
class Chooser {
  public:
    Chooser() = default;  // its likeliest token
    // `history`: all its tokens, of which the first `num_prompt_tokens` are the prompt; read only for penalties.
    Chooser(SamplingParams params, uint64_t seed, const std::vector<int64_t>& history, int64_t num_prompt_tokens);

    bool changes_logits() const { return params_.changes_logits(); }
    void process(float* logits, int64_t vocab_size) const;

    // Of processed logits, of which `chosen` was found: those that are asked for.
    Alternatives alternatives(float* logits, int64_t vocab_size, const Chosen& chosen) const;

    // The random number of the token at `position`; negative where the largest logit is to be taken.
    double uniform(int64_t position) const;

    // What was chosen comes to the history.
    void add(int64_t token_id);

  private:
    struct Count {
        int64_t all, generated;
    };

    void penalize(float* logits, int64_t vocab_size) const;

    SamplingParams params_;
    uint64_t seed_ = 0;
    std::unordered_map<int64_t, Count> counts_;
    int64_t length_ = 0;
};

struct NextToken {
    int64_t id;
    float logprob;
    Alternatives alternatives;
};

// One of each row, which `choosers` change; positions[i] is where the i-th will be in its sequence.
std::vector<NextToken> choose_next(const LogitRows& rows, const std::vector<Chooser>& choosers,
                                   const int64_t* positions);

}  // namespace segue
