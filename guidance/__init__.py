"""Attribute classifiers on noisy latents, and the guide that steers sampling with them.

- classifier: NoduleClassifier3D; classifier_guidance: its gradient near the lesion
"""

from typing import TYPE_CHECKING

from foundation.lazy import lazy_exports

if TYPE_CHECKING:
    from guidance.classifier import NoduleClassifier3D
    from guidance.classifier_guidance import ClassifierGuidance
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "ClassifierGuidance": "guidance.classifier_guidance",
            "NoduleClassifier3D": "guidance.classifier",
        },
    )


__all__ = ["ClassifierGuidance", "NoduleClassifier3D"]
