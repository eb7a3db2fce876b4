"""What the autoencoders are built of.

- encoder_decoder: both halves; blocks: their building blocks; haar: the wavelet stem
- codebook: the codes of the VQ autoencoder; discriminator: patches, real or reconstructed, with its hinge losses
- presets: sizes, and the options that configs name
"""
