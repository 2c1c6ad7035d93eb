#include "bind.h"
namespace segue { void bind_attention(nanobind::module_&) {} }
