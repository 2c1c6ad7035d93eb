"""Where each route of an endpoint lies."""

from enum import StrEnum

import httpx

__all__ = ["Dialect", "Urls"]

_ROUTES = ("/v1/chat/completions", "/v1/completions", "/generate_stream", "/generate", "/v1")


class Dialect(StrEnum):
    AUTO = "auto"
    TGI = "tgi"
    HOSTED = "hosted"


class Urls:
    """URLs of one endpoint, each built once.

    A base that already ends with a known route means the server that has the route. In the hosted dialect ``generate``
    posts to the model's URL itself; a base on Hugging Face's hosts that names no model is completed with ``model``:

        https://api-inference.huggingface.co             /models/{model}, and the OpenAI routes below it
        https://router.huggingface.co/v1                 /hf-inference/models/{model}; the OpenAI routes as given
    """

    def __init__(self, base: str, dialect: Dialect, model: str | None) -> None:
        url = httpx.URL(base)
        path = url.path.rstrip("/")
        for route in _ROUTES:
            if path.endswith(route):
                path = path.removesuffix(route)
                break
        is_hub = url.host in ("api-inference.huggingface.co", "router.huggingface.co")
        self.is_hosted = dialect is Dialect.HOSTED or (dialect is Dialect.AUTO and is_hub)
        model_path = path
        if self.is_hosted and is_hub and model and "/models/" not in path:
            if url.host == "router.huggingface.co":
                model_path = f"/hf-inference/models/{model}"
            else:
                path = model_path = f"/models/{model}"
        self._base, self._path = url, path
        self.model_url = url.copy_with(path=model_path or "/")
        self._built: dict[str, httpx.URL] = {}
        if self.is_hosted:
            self._built = dict.fromkeys(("/generate", "/generate_stream", "/health"), self.model_url)

    def route(self, path: str) -> httpx.URL:
        """Of a path below the base; a whole URL is itself."""
        built = self._built.get(path)
        if built is None:
            if path.startswith(("http://", "https://")):
                return httpx.URL(path)
            built = self._built[path] = self._base.copy_with(path=self._path + path)
        return built
