// Tokens as events of one stream.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "outlet.h"

namespace segue {

struct Token {
    uint64_t id;
    double logprob;
};

// What single tokens say, as JSON; asked for once a token.
class Pieces {
  public:
    struct Piece {
        enum { unknown, other, plain } kind = unknown;
        bool is_special = false;
        std::string text;  // a JSON string
    };

    // `describe(id)`: the JSON string and whether the token is special; None for one whose text hangs on its neighbours.
    explicit Pieces(nanobind::object describe) : describe_(std::move(describe)) {}

    // Null for a token that is not plain.
    const Piece* find(uint64_t id);

  private:
    nanobind::object describe_;
    std::vector<Piece> pieces_;
};

// An event: bytes as they are, and what changes from token to token.
class Template {
  public:
    // Items: bytes, or the name of a field.
    explicit Template(nanobind::sequence items);

    void render(uint64_t index, const Token& token, const Pieces::Piece& piece, std::string* to) const;

  private:
    enum class Field { none, index, id, text, shown_text, logprob, special };
    std::vector<std::pair<std::string, Field>> parts_;  // bytes, and the field behind them
};

// Writes a stream's tokens to its outlet, and remembers them.
class Pen {
  public:
    // `index`: of the next token.
    Pen(std::shared_ptr<Pieces> pieces, std::shared_ptr<Template> shape, std::shared_ptr<Outlet> outlet, uint64_t index)
        : pieces_(std::move(pieces)), template_(std::move(shape)), outlet_(std::move(outlet)), index_(index) {}

    // What so many steps gave, each as much. False, and nothing is done, if it is not for this pen.
    bool write(const std::vector<Token>& tokens, uint64_t num_steps);

    const std::shared_ptr<Outlet>& outlet() const { return outlet_; }

    // ([id], [logprob], {tokens of a step: steps}) since the last time.
    nanobind::tuple take();

  private:
    std::shared_ptr<Pieces> pieces_;
    std::shared_ptr<Template> template_;
    std::shared_ptr<Outlet> outlet_;
    uint64_t index_;
    std::vector<Token> tokens_;
    std::map<size_t, uint64_t> num_steps_;  // by their number of tokens
    std::string events_;
};

void bind_pen(nanobind::module_& module);

}  // namespace segue
