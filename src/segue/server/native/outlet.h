// The body of one response in chunks, on its way to the client.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <string_view>

namespace segue {

// Writes to the socket itself while the transport has nothing that must go before: that spares the event loop's queue
// of writes, and every object of it. What the kernel does not take is the transport's.
class Outlet {
  public:
    // `socket`: of a file that carries bytes as they are, or -1. `write` and `num_waiting`: the transport's.
    Outlet(int socket, nanobind::object write, nanobind::object num_waiting);

    void add(std::string_view events) { body_ += events; }
    // Data that is no part of the body: the head or the end.
    void hold(std::string_view data);
    // Sends what was added and held. Nothing happens when the client has left.
    void flush();
    // The connection is gone: what is added from here on is dropped, and the file is not touched again.
    void close();

    bool is_empty() const { return body_.empty(); }
    bool takes_more() const { return !is_closed_ && !is_full; }

    bool is_full;
    double written_time;  // of the monotonic clock, in seconds

  private:
    int socket_;
    bool is_closed_ = false;
    nanobind::object write_, num_waiting_;
    std::string body_, data_;  // a chunk to be, and what goes before it

    void end_chunk();
};

void bind_outlet(nanobind::module_& module);

}  // namespace segue
