"""The autoencoder over HTTP; its client is `autoencoder.remote`."""
