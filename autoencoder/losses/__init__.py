"""Losses of stage 1, and what the losses of both stages share.

- basic: L1, lesion error, KL, commitment
- adversarial: the losses of discriminators, for both stages
- perceptual: LPIPS on slices
- wavelet: the wavelet loss (eq. 10-11), for both stages
- lesion_box: cuts each sample to the box of its mask, for every loss on a lesion
- weights: the weight of each loss, as a config names it
"""
