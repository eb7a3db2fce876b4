"""Numbers from arrays of features, one row per lesion. Nothing here knows about CT.

- distances: Wasserstein per feature, Fréchet, KID
- exchange: synthetic against real sets: patient-wise splits, the ratio to real vs real, exchange tests
- agreement: scores against labels and ratings: at equal size, within groups, with intervals over patients
- attribute_figures: how well a classifier does at each noise level, beside a control
- resampling: splits of real lesions, intervals of means, paired tests, Holm's adjustment
"""
