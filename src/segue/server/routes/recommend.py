"""The recommender that Hugging Face served beside TGI: limits and a machine for a model."""

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.recommend import recommend_response
from segue.server.replies import json_reply
from segue.server.state import Server

__all__ = ["recommend"]


async def recommend(server: Server, request: Request) -> ASGIApp:
    """Query: ``model_id``, ``gpu_memory`` (GB), ``num_gpus``, ``mode`` (compat or exact)."""
    status, body = await asyncio.to_thread(
        recommend_response, request.path_params["provider"], request.query_params, server.model.describe
    )
    return json_reply(body, status)
