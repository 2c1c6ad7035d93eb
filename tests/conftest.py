"""What all tests share.

One thread for PyTorch: tiny models gain nothing from more, and threads wait for each other. Ctrl-C is heard: a shell
starts what it runs in the background with SIGINT ignored, which the servers that tests start would inherit.
"""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)
