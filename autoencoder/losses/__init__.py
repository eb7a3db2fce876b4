"""Losses of stage 1.

- basic: L1, KL, commitment; perceptual: LPIPS on slices; wavelet: eq. 10-11, for both stages
- lesion_box: the box of each sample's mask, for every loss on a lesion; weights: the weight of each loss
"""
