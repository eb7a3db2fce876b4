"""Methods trained for equal time and compared in one table: the work of `scripts/run_baselines.py`.

- config: what is compared; methods: each method's training, by its configs; pixels: the dataset of those on voxels
- sets: the lesions of each method, and the time of one; tables: what is measured of them, and the tables
"""
