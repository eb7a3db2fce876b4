"""Numbers from arrays of features, one row per lesion; nothing here knows a CT.

- distances: between two sets of vectors: Wasserstein per feature, Fréchet, KID
- exchange: synthetic against real sets: patient-wise splits, the ratio to real vs real, exchange tests
- agreement: scores against labels and ratings, at equal size, within groups, with intervals over patients
- attribute_figures: how well an attribute is told at each noise level, beside a control
- resampling: splits of real lesions, intervals of means, paired tests between methods, Holm's adjustment
"""
