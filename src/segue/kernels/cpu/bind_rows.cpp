#include "bind.h"
namespace segue { void bind_rows(nanobind::module_&) {} }
