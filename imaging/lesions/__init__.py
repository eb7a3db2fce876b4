"""Where a lesion is painted.

- mask: what counts as a lesion mask; shapes: nodule-like masks; sites: free places in the lung; placing: a new
  lesion's mask at a site
"""
