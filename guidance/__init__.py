"""Attribute classifiers on noisy latents, and the guide that steers sampling with them."""

from guidance.classifier import NoduleClassifier3D
from guidance.classifier_guidance import ClassifierGuidance

__all__ = ["ClassifierGuidance", "NoduleClassifier3D"]
