"""Networks whose features lesions are compared in, and one that judges them.

- inception: Inception-v3 for the FID, AlexNet for LPIPS, of a lesion's central slices
- nodule_net: a small 3D network of our own, trained on real nodules; its weights lie beside it
- lesion_judge: small MLPs on measured figures, which tell malignancy and ratings; trained by train_judge.py
"""
