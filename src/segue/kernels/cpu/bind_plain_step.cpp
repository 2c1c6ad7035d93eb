// Whole steps of plain sequences, from lists to ids, in one call.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <poll.h>

#include <chrono>
#include <cmath>
#include <tuple>
#include <type_traits>

#include "aligned.h"
#include "bind.h"
#include "chooser.h"
#include "program.h"
#include "step_lists.h"

using nanobind::literals::operator""_a;

namespace segue {
namespace {

Aligned<float> new_rows(int64_t count, int64_t width) {
    return aligned<float>(sizeof(float) * static_cast<size_t>(count * width));
}

// Whether a file can be read now; -1 is none.
bool has_news(int file) {
    pollfd watched{file, POLLIN, 0};
    return file >= 0 && poll(&watched, 1, 0) > 0;
}

// Of those in core/request.py.
SamplingParams params_of(nb::handle given) {
    SamplingParams params;
    const auto read = [&](const char* name, auto& to) {
        to = nb::cast<std::remove_reference_t<decltype(to)>>(given.attr(name));
    };
    read("is_sampling", params.is_sampling);
    read("temperature", params.temperature);
    read("top_k", params.top_k);
    read("top_p", params.top_p);
    read("typical_p", params.typical_p);
    read("repetition_penalty", params.repetition_penalty);
    read("frequency_penalty", params.frequency_penalty);
    read("presence_penalty", params.presence_penalty);
    read("logit_bias", params.logit_bias);
    read("top_n_tokens", params.top_n_tokens);
    return params;
}

// (id, logprob), or where alternatives are asked for (id, logprob, a tuple of these).
nb::object token_of(const NextToken& found) {
    if (found.alternatives.empty()) return nb::make_tuple(found.id, found.logprob);
    return nb::make_tuple(found.id, found.logprob, nb::tuple(nb::cast(found.alternatives)));
}

// Each None, for its likeliest token, or (params, seed, history, num_prompt_tokens).
std::vector<Chooser> choosers_of(nb::handle given) {
    Items sequences(given);
    std::vector<Chooser> choosers(static_cast<size_t>(sequences.size()));
    for (int64_t i = 0; i < sequences.size(); ++i) {
        if (sequences[i].is_none()) continue;
        Items one(sequences[i]);
        require(one.size() == 4, "not what a token is chosen by");
        SamplingParams params = params_of(one[0]);
        const Numbers history = params.has_penalties() ? numbers_of(one[2]) : Numbers{};
        choosers[static_cast<size_t>(i)] =
            Chooser(std::move(params), nb::cast<uint64_t>(one[1]), history, one.number(3));
    }
    return choosers;
}

using Tokens = std::vector<NextToken>;  // one of each sequence

nb::list lists_of(const std::vector<Tokens>& steps) {
    nb::list lists;
    for (const Tokens& each : steps) {
        nb::list step;
        for (const NextToken& token : each) step.append(token_of(token));
        lists.append(step);
    }
    return lists;
}

// When steps are over.
struct Limits {
    int64_t max_steps;
    const Numbers& stop_token_ids;
    int news_file;

    bool reached(const std::vector<Tokens>& steps) const {
        return static_cast<int64_t>(steps.size()) == max_steps || stops(steps.back()) || has_news(news_file);
    }

  private:
    bool stops(const Tokens& tokens) const {
        return std::any_of(tokens.begin(), tokens.end(), [&](const NextToken& token) {
            return std::find(stop_token_ids.begin(), stop_token_ids.end(), token.id) != stop_token_ids.end();
        });
    }
};

bool fails(const Tokens& tokens) {
    return std::any_of(tokens.begin(), tokens.end(), [](const NextToken& token) { return std::isnan(token.logprob); });
}

// What a step runs, and where the next one is to go on.
struct State {
    PackedTokens tokens;
    std::vector<Chooser> choosers;
    PackedSequences self, cross;

    int64_t count() const { return static_cast<int64_t>(choosers.size()); }

    Inputs inputs() const {
        Inputs inputs;
        inputs.rows = tokens.row_starts.back();
        inputs.tokens = tokens.ids.data();
        inputs.positions = tokens.positions.data();
        inputs.slots = tokens.slots.data();
        inputs.self = self.view();
        inputs.cross = cross.view();
        return inputs;
    }

    // What was found is what the next step runs.
    void go_on(const Tokens& found, int64_t block_size) {
        for (size_t i = 0; i < found.size(); ++i) {
            const int64_t position = ++tokens.positions[i];
            tokens.ids[i] = found[i].id;
            tokens.slots[i] =
                self.block(static_cast<int64_t>(i), position / block_size) * block_size + position % block_size;
            choosers[i].add(found[i].id);
        }
        self.grow();
    }
};

// All of a step whose sequences' tokens follow from their logits and the tokens before, and of the steps after it.
class PlainStep {
  public:
    PlainStep(nb::object forward, nb::object logits, int64_t hidden_width, int64_t vocab_size, int64_t block_size)
        : forward_(std::move(forward)),
          logits_(std::move(logits)),
          hidden_width_(hidden_width),
          vocab_size_(vocab_size),
          block_size_(block_size) {}

    // [steps][sequences] what comes after each sequence's last token; the seconds that the choice took. More than one
    // step only where each sequence has one token; the last is `max_steps`, or the first that gives one of
    // `stop_token_ids`, that comes before one with a logprob of NaN, or that ends when `news_file` can be read. None where
    // the first has such a logprob.
    std::tuple<nb::list, double> run(nb::handle token_ids, nb::handle starts, nb::handle block_tables,
                                     nb::handle cross_lens, nb::handle cross_tables, nb::handle choosers,
                                     int64_t max_steps, const Numbers& stop_token_ids, int news_file) {
        State state = state_of(token_ids, starts, block_tables, cross_lens, cross_tables, choosers, max_steps);
        const Limits limits{max_steps, stop_token_ids, news_file};
        Pass pass{nb::cast<Program&>(forward_), nb::cast<Program&>(logits_), new_rows(state.count(), vocab_size_)};
        std::vector<Tokens> found;
        {
            nb::gil_scoped_release released;
            for (Tokens step = next_tokens(pass, state); !fails(step); step = next_tokens(pass, state)) {
                found.push_back(std::move(step));
                if (limits.reached(found)) break;
                state.go_on(found.back(), block_size_);
            }
        }
        return {lists_of(found), pass.choosing_s};
    }

  private:
    struct Pass {
        Program &forward, &to_logits;
        Aligned<float> logits;
        double choosing_s = 0.0;
    };

    State state_of(nb::handle token_ids, nb::handle starts, nb::handle block_tables, nb::handle cross_lens,
                   nb::handle cross_tables, nb::handle choosers, int64_t max_steps) const {
        PackedTokens tokens(token_ids, starts, block_tables, block_size_);
        const auto count = static_cast<int64_t>(tokens.row_starts.size()) - 1;
        require(max_steps == 1 || tokens.row_starts.back() == count, "several steps of more than one token");
        std::vector<Chooser> of_sequences = choosers_of(choosers);
        require(static_cast<int64_t>(of_sequences.size()) == count, "lists of unequal lengths");
        PackedSequences self(tokens.row_starts, std::move(tokens.kv_lens), block_tables, block_size_, max_steps - 1);
        Numbers lens = numbers_of(cross_lens), cross_starts = lens.empty() ? Numbers{0} : tokens.row_starts;
        PackedSequences cross(std::move(cross_starts), std::move(lens), cross_tables, block_size_);
        return {std::move(tokens), std::move(of_sequences), std::move(self), std::move(cross)};
    }

    Tokens next_tokens(Pass& pass, const State& state) const {
        using Clock = std::chrono::steady_clock;
        Inputs inputs = state.inputs();
        const Numbers& row_starts = state.tokens.row_starts;
        const int64_t count = state.count();
        const bool narrows = pass.forward.narrows();
        Aligned<float> hidden = new_rows(narrows ? count : inputs.rows, hidden_width_);
        const Numbers wanted(state.choosers.size(), 1);
        if (narrows) inputs.wanted = wanted.data();
        inputs.output = hidden.get();
        inputs.output_stride = hidden_width_;
        pass.forward.run(inputs);
        for (int64_t i = 0; i < count && !narrows; ++i)  // to the front, where a prompt has more than one row
            std::copy_n(hidden.get() + (row_starts[static_cast<size_t>(i + 1)] - 1) * hidden_width_, hidden_width_,
                        hidden.get() + i * hidden_width_);
        Inputs last;
        last.rows = count;
        last.input = hidden.get();
        last.input_stride = hidden_width_;
        last.output = pass.logits.get();
        last.output_stride = vocab_size_;
        pass.to_logits.run(last);
        const Clock::time_point begin = Clock::now();
        const LogitRows logits{pass.logits.get(), vocab_size_, vocab_size_};
        Tokens found = choose_next(logits, state.choosers, inputs.self.kv_lens);  // each goes where its sequence ends
        pass.choosing_s += std::chrono::duration<double>(Clock::now() - begin).count();
        return found;
    }

    nb::object forward_, logits_;
    int64_t hidden_width_, vocab_size_, block_size_;
};

}  // namespace

void bind_plain_step(nb::module_& module) {
    nb::class_<PlainStep>(module, "PlainStep")
        .def(nb::init<nb::object, nb::object, int64_t, int64_t, int64_t>(), "forward"_a, "logits"_a, "hidden_width"_a,
             "vocab_size"_a, "block_size"_a)
        .def("run", &PlainStep::run, "token_ids"_a, "starts"_a, "block_tables"_a, "cross_lens"_a, "cross_tables"_a,
             "choosers"_a, "max_steps"_a, "stop_token_ids"_a, "news_file"_a);
}

}  // namespace segue
