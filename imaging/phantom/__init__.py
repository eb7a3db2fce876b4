"""A chest that looks like CT, for tests and the demo.

- chest: scans and nodule crops with known truth; anatomy: where organs lie; tissue: what they look like
"""
