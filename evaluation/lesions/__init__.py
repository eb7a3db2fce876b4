"""Sets of lesions: what is measured of each, and how sets and methods are compared.

Measurements of one lesion:

- texture: Gabor-64; radiomics: GLCM-24 and GLRLM-16; spectrum: power by spatial frequency
- appearance: about forty figures of the image, the input of a judge
- hu_and_seam: HU, core deviation, coverage of the mask, the step at its border
- label_agreement: whether the lesion is where its label says
- noise_ratio: noise in the lesion and in similar tissue around it

Sets of lesions:

- lesion_sets: the lesions of a prepared dataset or of a folder; openings: how often a test split was opened
- synthetic_sets: made in the masks of a prepared dataset; synthetic_set_config: with which options
- synthesis: new lesions in whole scans; acceptance: which of them pass
- features: all feature vectors of a set, measured once
- set_comparison: distances between a synthetic and a real set, beside real vs real in the same splits
- shared_masks: which synthetic lesions share a mask or a patient with a real one
- pair_comparison: a synthetic lesion against the real one of the same mask
- whole_crops: crops made from their semantic map against the real ones
- method_tests: paired tests between methods
- detector, detector_figures: how well a classifier tells synthetic lesions from real ones; controls: real lesions with
  a known fault
- spreads: medians and quartiles
- memorisation: copies of training lesions; variety over masks and seeds
- real_lesions: how plausible a lesion is; characters: the attributes that a synthesis requests;
  balance: by which shares
"""
