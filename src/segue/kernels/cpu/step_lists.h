// A step's lists, as the engine has them, as the arrays that kernels read.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "attention.h"

namespace segue {

namespace nb = nanobind;

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

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

inline Numbers numbers_of(nb::handle given) {
    Items items(given);
    Numbers numbers;
    for (int64_t i = 0; i < items.size(); ++i) numbers.push_back(items.number(i));
    return numbers;
}

// Where each begins, and where the last ends.
inline Numbers starts_of(const Numbers& lens) {
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

}  // namespace segue
