"""Lesions painted into one scan and written to files: the work of `scripts/inpaint.py` and of the page.

- config: what is requested; planning: masks, places and shapes, checked; painting: lesion after lesion, and the files
"""
