"""The autoencoder over HTTP, in the Diffusers remote-VAE protocol.

- app: the paths; server: socket and process; wire: tensors as bytes; request: what a client sent
- batching: queue and worker that join requests; served_model: what is computed; memory, metrics: of the process
"""
