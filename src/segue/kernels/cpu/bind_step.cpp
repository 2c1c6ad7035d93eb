// A step's lists, as the engine has them, to the arrays that kernels read; and whole steps of plain sequences.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "aligned.h"
#include "bind.h"
#include "chooser.h"
#include "program.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace segue {
namespace {

using Numbers = std::vector<int64_t>;

// The items of a list or a tuple, without a copy.
class Items {
  public:
    explicit Items(nb::handle given) : kept_(nb::steal(PySequence_Fast(given.ptr(), "a list or a tuple is wanted"))) {
        if (!kept_.is_valid()) throw nb::python_error();
    }

    int64_t size() const { return PySequence_Fast_GET_SIZE(kept_.ptr()); }
    nb::handle operator[](int64_t i) const { return PySequence_Fast_GET_ITEM(kept_.ptr(), i); }
    int64_t number(int64_t i) const {
        int64_t number = PyLong_AsLongLong((*this)[i].ptr());
        if (number == -1 && PyErr_Occurred()) throw nb::python_error();
        return number;
    }

  private:
    nb::object kept_;
};

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

Numbers numbers_of(nb::handle given) {
    Items items(given);
    Numbers numbers;
    for (int64_t i = 0; i < items.size(); ++i) numbers.push_back(items.number(i));
    return numbers;
}

// Where each begins, and where the last ends.
Numbers starts_of(const Numbers& lens) {
    Numbers starts{0};
    for (int64_t len : lens) starts.push_back(starts.back() + len);
    return starts;
}

// Sequences (attention.h) and the arrays behind them.
class PackedSequences {
  public:
    // `num_more`: tokens that each may come to have more than `kv_lens`.
    PackedSequences(Numbers query_starts, Numbers kv_lens, nb::handle block_tables, int64_t block_size,
                    int64_t num_more = 0)
        : starts_(std::move(query_starts)), lens_(std::move(kv_lens)) {
        Items tables(block_tables);
        int64_t count = tables.size();
        require(lens_.size() + 1 == starts_.size(), "lists of unequal lengths");
        require(count == 0 || count == static_cast<int64_t>(lens_.size()), "lists of unequal lengths");
        auto blocks_of = [&](int64_t i) {
            return (lens_[static_cast<size_t>(i)] + num_more + block_size - 1) / block_size;
        };
        for (int64_t i = 0; i < count; ++i) width_ = std::max(width_, blocks_of(i));
        blocks_.reserve(static_cast<size_t>(width_ * count));
        for (int64_t i = 0; i < count; ++i) {
            Items table(tables[i]);
            require(table.size() >= blocks_of(i), "a block table is too short");
            for (int64_t j = 0; j < blocks_of(i); ++j) blocks_.push_back(table.number(j));
            blocks_.resize(static_cast<size_t>(width_ * (i + 1)));
        }
    }

    // One more token of each.
    void grow() {
        for (int64_t& len : lens_) ++len;
    }

    int64_t block(int64_t sequence, int64_t number) const {
        return blocks_[static_cast<size_t>(sequence * width_ + number)];
    }

    Sequences view() const {
        const int64_t* tables = blocks_.empty() ? nullptr : blocks_.data();
        return {static_cast<int64_t>(lens_.size()), starts_.data(), lens_.data(), tables, width_};
    }

  private:
    Numbers starts_, lens_, blocks_;
    int64_t width_ = 0;
};

SequencesGiven given(const PackedSequences& packed) {
    auto address = [](const int64_t* numbers) { return reinterpret_cast<uintptr_t>(numbers); };
    Sequences view = packed.view();
    return {view.count, address(view.query_starts), address(view.kv_lens), address(view.block_tables), view.table_width};
}

// A step's tokens: ids; positions, counted from each sequence's start; slots.
struct PackedTokens {
    Numbers row_starts, kv_lens, ids, positions, slots;

    PackedTokens(nb::handle token_ids, nb::handle starts, nb::handle block_tables, int64_t block_size) : row_starts{0} {
        Items sequences(token_ids), first(starts), tables(block_tables);
        require(first.size() == sequences.size() && tables.size() == sequences.size(), "lists of unequal lengths");
        for (int64_t i = 0; i < sequences.size(); ++i) {
            Items tokens(sequences[i]), table(tables[i]);
            int64_t start = first.number(i), end = start + tokens.size(), block = -1;
            require(start >= 0 && (end + block_size - 1) / block_size <= table.size(), "a block table is too short");
            for (int64_t position = start; position < end; ++position) {
                if (position == start || position % block_size == 0) block = table.number(position / block_size);
                ids.push_back(tokens.number(position - start));
                positions.push_back(position);
                slots.push_back(block * block_size + position % block_size);
            }
            row_starts.push_back(static_cast<int64_t>(ids.size()));
            kv_lens.push_back(end);
        }
    }
};

void pack_tokens(nb::handle token_ids, nb::handle starts, nb::handle block_tables, int64_t block_size, uintptr_t out,
                 int64_t num_tokens) {
    PackedTokens packed(token_ids, starts, block_tables, block_size);
    require(static_cast<int64_t>(packed.ids.size()) == num_tokens, "not as many tokens as said");
    int64_t* to = at<int64_t>(out);
    for (const Numbers* each : {&packed.ids, &packed.positions, &packed.slots})
        to = std::copy(each->begin(), each->end(), to);
}

Aligned<float> new_rows(int64_t count, int64_t width) {
    return aligned<float>(sizeof(float) * static_cast<size_t>(count * width));
}

// Whether a file can be read now; -1 is none.
bool has_news(int file) {
    pollfd watched{file, POLLIN, 0};
    return file >= 0 && poll(&watched, 1, 0) > 0;
}

using Token = std::tuple<int64_t, float>;  // id, logprob

// (is_sampling, temperature, top_k, top_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty, logit_bias).
using ParamsGiven =
    std::tuple<bool, double, int64_t, double, double, double, double, double, std::vector<std::pair<int64_t, double>>>;

// Each None, for its likeliest token, or (params, seed, history, num_prompt_tokens).
std::vector<Chooser> choosers_of(nb::handle given) {
    Items sequences(given);
    std::vector<Chooser> choosers(static_cast<size_t>(sequences.size()));
    for (int64_t i = 0; i < sequences.size(); ++i) {
        if (sequences[i].is_none()) continue;
        Items one(sequences[i]);
        require(one.size() == 4, "not what a token is chosen by");
        SamplingParams params = std::apply([](auto... each) { return SamplingParams{each...}; },
                                           nb::cast<ParamsGiven>(one[0]));
        const Numbers history = params.has_penalties() ? numbers_of(one[2]) : Numbers{};
        choosers[static_cast<size_t>(i)] =
            Chooser(std::move(params), nb::cast<uint64_t>(one[1]), history, one.number(3));
    }
    return choosers;
}

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
    std::tuple<std::vector<std::vector<Token>>, double> run(nb::handle token_ids, nb::handle starts,
                                                            nb::handle block_tables, nb::handle cross_lens,
                                                            nb::handle cross_tables, nb::handle choosers,
                                                            int64_t max_steps, const Numbers& stop_token_ids,
                                                            int news_file) {
        PackedTokens tokens(token_ids, starts, block_tables, block_size_);
        const auto count = static_cast<int64_t>(tokens.row_starts.size()) - 1;
        require(max_steps == 1 || tokens.row_starts.back() == count, "several steps of more than one token");
        Choice choice{choosers_of(choosers), tokens.kv_lens};
        require(static_cast<int64_t>(choice.choosers.size()) == count, "lists of unequal lengths");
        PackedSequences self(tokens.row_starts, std::move(tokens.kv_lens), block_tables, block_size_, max_steps - 1);
        Numbers lens = numbers_of(cross_lens);
        Numbers cross_starts = lens.empty() ? Numbers{0} : tokens.row_starts;
        PackedSequences cross(std::move(cross_starts), std::move(lens), cross_tables, block_size_);
        Inputs inputs;
        inputs.rows = tokens.row_starts.back();
        inputs.tokens = tokens.ids.data();
        inputs.positions = tokens.positions.data();
        inputs.slots = tokens.slots.data();
        inputs.self = self.view();
        inputs.cross = cross.view();
        Pass pass{nb::cast<Program&>(forward_), nb::cast<Program&>(logits_), new_rows(count, vocab_size_)};
        std::vector<std::vector<Token>> found;
        nb::gil_scoped_release released;
        while (true) {
            std::vector<Token> step = next_tokens(pass, inputs, tokens.row_starts, choice);
            if (fails(step)) break;
            found.push_back(std::move(step));
            if (static_cast<int64_t>(found.size()) == max_steps || stops(found.back(), stop_token_ids) ||
                has_news(news_file))
                break;
            go_on(found.back(), &tokens, &self, &choice);
        }
        return {std::move(found), pass.choosing_s};
    }

  private:
    struct Pass {
        Program &forward, &to_logits;
        Aligned<float> logits;
        double choosing_s = 0.0;
    };

    // One of each sequence.
    struct Choice {
        std::vector<Chooser> choosers;
        Numbers positions;  // where the next token will be
    };

    std::vector<Token> next_tokens(
        Pass& pass, Inputs& inputs, const Numbers& row_starts, const Choice& choice) const {
        using Clock = std::chrono::steady_clock;
        const auto count = static_cast<int64_t>(row_starts.size()) - 1;
        const bool narrows = pass.forward.narrows();
        Aligned<float> hidden = new_rows(narrows ? count : inputs.rows, hidden_width_);
        const Numbers wanted(row_starts.size() - 1, 1);
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
        std::vector<Token> found;
        const LogitRows logits{pass.logits.get(), vocab_size_, vocab_size_};
        for (const Chosen& each : choose_next(logits, choice.choosers, choice.positions))
            found.emplace_back(each.id, each.logprob);
        pass.choosing_s += std::chrono::duration<double>(Clock::now() - begin).count();
        return found;
    }

    static bool fails(const std::vector<Token>& tokens) {
        return std::any_of(tokens.begin(), tokens.end(), [](Token token) { return std::isnan(std::get<1>(token)); });
    }

    static bool stops(const std::vector<Token>& tokens, const Numbers& stop_token_ids) {
        return std::any_of(tokens.begin(), tokens.end(), [&](Token token) {
            return std::find(stop_token_ids.begin(), stop_token_ids.end(), std::get<0>(token)) != stop_token_ids.end();
        });
    }

    // What was found is what the next step runs.
    void go_on(const std::vector<Token>& found, PackedTokens* tokens, PackedSequences* self, Choice* choice) const {
        for (size_t i = 0; i < found.size(); ++i) {
            const int64_t position = ++tokens->positions[i];
            tokens->ids[i] = std::get<0>(found[i]);
            choice->choosers[i].add(tokens->ids[i]);
            ++choice->positions[i];
            tokens->slots[i] =
                self->block(static_cast<int64_t>(i), position / block_size_) * block_size_ + position % block_size_;
        }
        self->grow();
    }

    nb::object forward_, logits_;
    int64_t hidden_width_, vocab_size_, block_size_;
};

}  // namespace

void bind_step(nb::module_& module) {
    nb::class_<PackedSequences>(module, "PackedSequences")
        .def(
            "__init__",
            [](PackedSequences* self, nb::handle query_lens, nb::handle kv_lens, nb::handle tables, int64_t block_size) {
                new (self) PackedSequences(starts_of(numbers_of(query_lens)), numbers_of(kv_lens), tables, block_size);
            },
            "query_lens"_a, "kv_lens"_a, "block_tables"_a, "block_size"_a)
        .def_prop_ro("given", &given);
    module.def("pack_tokens", &pack_tokens, "token_ids"_a, "starts"_a, "block_tables"_a, "block_size"_a, "out"_a,
               "num_tokens"_a);
    nb::class_<PlainStep>(module, "PlainStep")
        .def(nb::init<nb::object, nb::object, int64_t, int64_t, int64_t>(), "forward"_a, "logits"_a, "hidden_width"_a,
             "vocab_size"_a, "block_size"_a)
        .def("run", &PlainStep::run, "token_ids"_a, "starts"_a, "block_tables"_a, "cross_lens"_a, "cross_tables"_a,
             "choosers"_a, "max_steps"_a, "stop_token_ids"_a, "news_file"_a);
}

}  // namespace segue
