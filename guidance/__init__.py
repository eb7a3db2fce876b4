"""Attribute classifiers on noisy latents, and the guide that steers sampling with them.

- classifier: NoduleClassifier3D; classifier_guidance: its gradient near the lesion
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guidance.classifier import NoduleClassifier3D
    from guidance.classifier_guidance import ClassifierGuidance
else:

    def __getattr__(name: str) -> Any:
        """Import a public class when it is first asked for (PEP 562), so that a config needs no torch."""
        if name not in MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(MODULES[name]), name)


MODULES = {
    "ClassifierGuidance": "guidance.classifier_guidance",
    "NoduleClassifier3D": "guidance.classifier",
}

__all__ = ["ClassifierGuidance", "NoduleClassifier3D"]
