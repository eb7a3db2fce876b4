"""Networks whose features are compared, and a network that judges lesions.

- inception: Inception-v3 for the FID, and AlexNet for LPIPS, on a lesion's central slices
- nodule_net: a small 3D network of this project, trained on real nodules; its weights are in this folder
- lesion_judge: small MLPs on measured figures that predict malignancy and ratings; trained by train_judge.py
"""
