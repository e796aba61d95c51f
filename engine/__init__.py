"""The serving engine for LLM-SRec recommenders."""

import importlib
import os
from typing import TYPE_CHECKING

# ONNX Runtime's wheel for Linux reports what it does to its maker. It reads this while it is being
# imported, when it also writes a device's id into the user's cache; a call can only come too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from engine.errors import EngineError
    from engine.recommender import Recommender
    from engine.request import Interaction, Recommendation, RecommendRequest

__all__ = ["EngineError", "Interaction", "RecommendRequest", "Recommendation", "Recommender"]

_MODULES = {
    "EngineError": "errors",
    "Interaction": "request",
    "RecommendRequest": "request",
    "Recommendation": "request",
    "Recommender": "recommender",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: a server heeds signals before it loads."""
    if name not in _MODULES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(f"engine.{_MODULES[name]}"), name)
