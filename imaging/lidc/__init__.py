"""LIDC-IDRI as it is downloaded.

- scans: finds series and their XML files
- xml: reads the annotations of the readers
- consensus: merges the readers' outlines into nodules, masks and mean ratings
- scan_nodules: one scan -> rows of the prepared dataset
- run: many scans, resumable
"""
