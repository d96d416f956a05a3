"""One trained network under one attack: what is looked at before, the verdicts, and how they go on later."""

from .judge import evaluate

__all__ = ["evaluate"]
