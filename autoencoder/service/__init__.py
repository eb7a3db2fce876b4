"""The autoencoder over HTTP, in the remote-VAE protocol of Diffusers.

- app: the HTTP paths; server: socket and process
- wire: tensors as bytes; request: checks one request
- batching: joins requests that arrive together
- served_model: computes the answers
- memory, metrics: memory and counters of the process
"""
