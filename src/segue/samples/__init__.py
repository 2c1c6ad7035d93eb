"""The two small trained checkpoints that ship with Segue, in Hugging Face layout."""

from __future__ import annotations

from pathlib import Path

CHAT = Path(__file__).parent / "chat"
T5 = Path(__file__).parent / "t5"
