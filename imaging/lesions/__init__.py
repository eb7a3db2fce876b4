"""Lesion masks and what is measured in them.

- mask: the definition of a lesion mask, and how it grows by a margin
- shapes: draws nodule-like masks
- sites: finds free places in the lung
- placing: a new lesion's mask at a site
- table: reads a table of lesions to paint
- measured_attributes: mean and percentiles of HU in a mask
"""
