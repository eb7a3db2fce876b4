"""What an autoencoder loses of CT crops.

- reconstruction: encodes and decodes a crop, and measures it by region
- power_spectrum: the share of texture that survives at each spatial frequency
- matched_blur: the Gaussian blur of the same PSNR, for comparison
- table: averages over many crops, by lesion diameter
"""
