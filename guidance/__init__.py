"""Attribute classifiers on noisy lesions, and the guide that steers sampling with them.

- classifier: NoduleClassifier3D, and the log-likelihood of a requested value
- lesion_crop: the classifier's input: a crop of the noisy latent, or of the decoded image
- requested_values: requests as numbers
- multi_classifier_guidance: the guide: the gradient near the lesion, in the order of LSDM
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
