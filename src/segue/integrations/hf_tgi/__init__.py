"""The ``hf_tgi`` backend's class over Segue's client: code written for it runs, and its promises hold.

What differs from the original, always because it did not do what it said:

- every key is sent, and to the URL that was given
- an endpoint's limits, queue, retries and counters are its own, and real
- errors are raised (``segue.client.errors``: a full queue is a ValueError, a timeout a TimeoutError), never returned as
  text, and never retried when the caller is at fault
- streams are server-sent events, and a broken one raises
- token counts are the server's, not characters divided by four
- nothing is printed
"""

from segue.integrations.hf_tgi.backend import hf_tgi
from segue.integrations.hf_tgi.endpoints import UnknownEndpointError
from segue.integrations.hf_tgi.multiplexer import HFTGIMultiplexer

__all__ = ["HFTGIMultiplexer", "UnknownEndpointError", "hf_tgi"]
