"""The serving engine for LLM-SRec recommenders."""

import os

# ONNX Runtime's wheel for Linux reports what it does to its maker. It reads this while it is being
# imported, when it also writes a device's id into the user's cache; a call can only come too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from engine.errors import EngineError
from engine.recommender import Recommender
from engine.request import Interaction, Recommendation, RecommendRequest

__all__ = ["EngineError", "Interaction", "RecommendRequest", "Recommendation", "Recommender"]
