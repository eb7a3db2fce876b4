"""Arrays in, numbers and reports out.

- image_quality: MSE, PSNR, SSIM, MS-SSIM of volumes with padding
- settings: what the evaluation scripts have in common: checks, named folders, optional networks
- lesions/: sets of lesions, what is measured of them, and how sets and methods are compared
- guided/: whether lesions have the character that was requested, and what asking costs
- autoencoders/: what an autoencoder loses of CT crops
- statistics/: distances between sets of feature vectors, exchange tests, intervals
- networks/: Inception and LPIPS, and a 3D network of our own
- reports/: the results as HTML, Markdown, JSON and pictures
"""
