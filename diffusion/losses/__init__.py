"""Losses of stage 2: on the latent at every step, and on the decoded lesion in the late steps.

Every texture loss takes (pred, target, mask) of shape (B, 1, D, H, W) and returns a scalar, or one value per sample
with `reduction="none"`. All are zero for an empty mask, do not depend on what lies outside the mask, are differentiable
in the prediction, and are computed in float32 also under autocast.

- structure: the weighted squared error on the latent; texture: the table of texture losses by name
- gabor: eq. 6; cooccurrence: eq. 7-9; dog: differences of Gaussians; border: the lesion's border
- response_distribution: distributions of Gabor responses; foreground_discriminator: an adversary on the lesion alone
- time_weights: which samples, region and weight each loss has at t; gradient_balance: how the losses' gradients combine
"""
