"""The serving engine for LLM-SRec recommenders."""

from engine.errors import EngineError
from engine.recommender import Recommender
from engine.request import Interaction, Recommendation, RecommendRequest

__all__ = ["EngineError", "Interaction", "RecommendRequest", "Recommendation", "Recommender"]
