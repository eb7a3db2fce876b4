"""Building blocks of the autoencoders.

- encoder_decoder: encoder and decoder
- blocks: their building blocks
- haar: the Haar transform that replaces the first level
- codebook: the codes of the VQ autoencoder
- discriminator: the patch discriminator of CT, for both stages
- presets: sizes, and types of config options
"""
