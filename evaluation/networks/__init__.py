"""Networks whose features are compared, a network that judges lesions, and one that detects synthetic lesions.

- inception: Inception-v3 for the FID, and AlexNet for LPIPS, on a lesion's central slices
- nodule_net: a small 3D network of this project, trained on real nodules; its weights are in this folder
- lesion_judge: small MLPs on measured figures that predict malignancy and ratings; trained by train_judge.py
- detector_net: a small 3D network that tells synthetic lesions from real ones
"""
