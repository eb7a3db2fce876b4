"""Sets of lesions: what is measured of each, and how sets and methods are compared.

- lesion_sets: the lesions of a prepared dataset or of a folder; pairs of equal masks; the cube that networks see
- synthetic_sets: made in the masks of a prepared dataset; synthetic_set_config: with which options
- openings: how often the test split of a dataset was opened
- features: all feature vectors of a set, measured once
- texture: Gabor-64
- radiomics: GLCM-24 and GLRLM-16
- appearance: some forty figures of the image, which a judge of character is told
- hu_and_seam: mean and deviation of HU; the jump at the mask's border
- noise: in a lesion, beside that of tissue like it around it
- set_comparison: distances between a synthetic and the real set, beside real vs real in the same splits
- shared_masks: which synthetic lesions share a mask or a patient with a real one
- pair_comparison: figures of a synthetic lesion and the real one of the same mask
- method_tests: paired tests between methods
- synthesis: new lesions in whole scans; acceptance: which of them pass
- real_lesions: how plausible a lesion is; characters: what a synthesis asks for
- memorisation: copies of training lesions; variety over masks and seeds
"""
