"""Losses of stage 2: on the latent at every step, and on the decoded lesion in the late steps.

Every texture loss takes (pred, target, mask) of shape (B, 1, D, H, W). It returns a scalar, or one value per sample
with `reduction="none"`. It is zero for an empty mask, differentiable in the prediction, and computed in float32 also
under autocast. It does not depend on the prediction outside the mask; `border` is the exception.

- structure: the weighted squared error on the latent
- texture: the table of texture losses by name
- gabor: eq. 6; cooccurrence: eq. 7-9; dog: differences of Gaussians
- response_distribution: distributions of Gabor responses
- foreground_discriminator: a discriminator on the lesion in its real surroundings
- border: steps at the lesion's border
- time_weights: samples, region and weight of each loss at t
- gradient_balance: how the losses' gradients are combined
"""
