"""One thread for PyTorch in the tests: tiny models gain nothing from more, and threads wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
