"""A finished set of synthetic scans, and real scans beside it, in the folders that other tools train from.

- cases: a case, its nodules, and how both are read; folds: cross-validation by patient
- export: writes a layout: images, labels, the index of the format
- nnunet, nndetection, monai_list, coco3d: a format each
- layout: what a format says of itself, and the index that it writes
"""
