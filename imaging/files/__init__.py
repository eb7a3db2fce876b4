"""CT files in and out.

- ct: DICOM series, NIfTI, MetaImage <-> SimpleITK image in HU, with one clear error for each fault
- hounsfield: whether an image is in HU at all
- nifti_check: what the NIfTI reader would pass over in silence
"""
