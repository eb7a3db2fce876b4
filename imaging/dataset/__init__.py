"""Prepared datasets of nodules and scans.

- rows: typed rows on disk, by split: the one writer and reader; nodules: what a row of a nodule crop holds
- crop: one nodule of a CT as a row; sources: rows of every source in one form
- nifti_pairs: NIfTI pairs with a table; lab_files: .mat and .npy
- splits: training, validation and test patients; label_policy: benign and malignant
- card: what a dataset holds; qc_report: a page to look it over
- manifest: the samples of a synthesis; synthetic_scans: a scan with its lesions, or crops of them
- scan_volumes: whole scans for training patches
"""
