"""Attribute classifiers on noisy lesions, and the guide that steers sampling with them.

- classifier: NoduleClassifier3D, its heads, and how well what they say agrees with a value
- lesion_crop: what it looks at, of the noisy latent or of the image decoded from it
- requests: what is requested, as numbers
- multi_classifier_guidance: the gradient near the lesion, of several attributes in LSDM's order
- classifier_training: labels, balanced sampling, and the training step with a label-shuffled control
"""

from typing import TYPE_CHECKING

from foundation.lazy import lazy_exports

if TYPE_CHECKING:
    from guidance.classifier import NoduleClassifier3D
    from guidance.multi_classifier_guidance import MultiClassifierGuidance
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "MultiClassifierGuidance": "guidance.multi_classifier_guidance",
            "NoduleClassifier3D": "guidance.classifier",
        },
    )


__all__ = ["MultiClassifierGuidance", "NoduleClassifier3D"]
