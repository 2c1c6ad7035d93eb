"""Clients of Hugging Face's hosted API by the old names. Whether it serves a model is for the API to say."""

from segue.integrations.text_generation.client import AsyncClient, Client

__all__ = ["InferenceAPIAsyncClient", "InferenceAPIClient"]

HOSTED_URL = "https://api-inference.huggingface.co/models"


class InferenceAPIClient(Client):
    def __init__(self, repo_id: str, token: str | None = None, timeout: float = 10) -> None:
        super().__init__(f"{HOSTED_URL}/{repo_id}", _headers(token), timeout=timeout)


class InferenceAPIAsyncClient(AsyncClient):
    def __init__(self, repo_id: str, token: str | None = None, timeout: float = 10) -> None:
        super().__init__(f"{HOSTED_URL}/{repo_id}", _headers(token), timeout=timeout)


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}
