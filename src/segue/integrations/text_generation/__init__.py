"""The ``text-generation`` package's names over Segue's client.

    from segue.integrations.text_generation import Client
    print(Client("http://127.0.0.1:8080").generate("Why is the sky blue?").generated_text)

What differs, always for the better: chat streams work; a stream that is cut raises; an error body that is not JSON is
an error too, not a crash; ``frequency_penalty`` may be negative; requests that failed through no fault of the caller
are repeated (``max_retries``). What no server answered raises the errors of ``segue.client``: APIConnectionError,
APITimeoutError.
"""

from segue.integrations.text_generation.client import AsyncClient, Client
from segue.integrations.text_generation.inference_api import InferenceAPIAsyncClient, InferenceAPIClient

__all__ = ["AsyncClient", "Client", "InferenceAPIAsyncClient", "InferenceAPIClient"]
