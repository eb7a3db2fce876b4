"""LIDC-IDRI as it is downloaded.

- scans: finds series and their XML; xml: the readers' annotations
- consensus: merges the readers' outlines into nodules, masks and mean ratings
- nodules: one scan -> rows of the prepared dataset; run: many scans, resumable
"""
