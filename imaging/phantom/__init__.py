"""A synthetic chest that looks like CT, for tests and the demo.

- chest: scans and nodule crops with known truth
- anatomy: where the organs lie
- tissue: their HU and the noise
"""
