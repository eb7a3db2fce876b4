"""Files <-> HU arrays, and the prepared dataset.

- window: HU <-> [-1, 1]; geometry: the model's grid around a point of a scan, and the way back
- boxes: around a mask, and around a point
- compositing: how a generated lesion joins a CT: one edge and one sum for crops and scans
- semantic_map: LSDM's labels of a chest
- settings: options of these rooms that configs name
- files/: DICOM, NIfTI, MetaImage; lidc/: LIDC-IDRI; dataset/: prepared datasets; lesions/: masks and sites; phantom/: a
  chest that looks like CT
"""
