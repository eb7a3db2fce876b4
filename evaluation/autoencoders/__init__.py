"""What an autoencoder loses of CT crops.

- reconstruction: a crop encoded and decoded, and its figures by region
- power_spectrum: how much texture survives at each spatial frequency
- matched_blur: the Gaussian blur of the same PSNR
- table: the figures of many crops, averaged by lesion diameter
"""
