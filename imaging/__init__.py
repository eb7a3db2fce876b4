"""From CT files to HU arrays and back, and the prepared dataset.

- window: HU <-> [-1, 1]
- boxes: boxes around a mask and around a point
- geometry: from a scan to the model's grid, and back
- compositing: adds a generated lesion to a CT, for crops and whole scans
- noise: noise with the spectrum of a scan's noise
- acquisition: a softer kernel and a lower dose, simulated
- semantic_map: the eight labels of a chest CT, as in LSDM
- option_types: types of config options
- files/: DICOM, NIfTI, MetaImage
- lidc/: LIDC-IDRI as downloaded
- dataset/: prepared datasets
- lesions/: masks, shapes, sites
- viewer/: a volume in three planes, for pages in a browser
- layouts/: synthetic and real scans in the folders that nnU-Net, nnDetection and MONAI train from
- phantom/: a synthetic chest that looks like CT
"""
