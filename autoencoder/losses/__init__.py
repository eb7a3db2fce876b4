"""Losses of stage 1, and the texture losses on decoded images; the time policies say when each of these counts.

Every texture loss takes (pred, target, mask) of shape (B, 1, D, H, W) and returns a scalar, or one value per sample
with `reduction="none"`. All are zero for an empty mask, independent of what lies outside the mask, differentiable in
the prediction, and computed in float32 also under autocast.

- basic: L1, KL, commitment; perceptual: LPIPS on slices; wavelet: eq. 10-11, for both stages
- gabor: eq. 6; cooccurrence: eq. 7-9; dog: differences of Gaussians
- lesion_box: each sample's box around its mask; settings: weights and options that configs name
"""
