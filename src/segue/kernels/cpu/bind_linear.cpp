#include "bind.h"
namespace segue { void bind_linear(nanobind::module_&) {} }
