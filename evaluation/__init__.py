"""Arrays in, numbers and reports out.

- image_quality: MSE, PSNR, SSIM, MS-SSIM of volumes with padding
- script_checks: what the evaluation scripts share: checks, named folders, optional networks
- inpainting/: lesions painted into one scan, and its files; page/: the local page that does so
- lesions/: measurements and comparisons of sets of lesions
- reading/: blinded reading studies, with their page
- baselines/: methods trained for equal time, and compared in one table
- guided/: requested against achieved attributes, and what a request costs
- autoencoders/: what an autoencoder loses of CT crops
- translation/: translations between kernels or doses, judged where the truth is known
- statistics/: distances between sets of features, exchange tests, intervals
- networks/: Inception, LPIPS, and a 3D nodule network
- reports/: HTML, Markdown, JSON and pictures
"""
