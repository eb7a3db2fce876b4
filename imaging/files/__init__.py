"""CT files in and out.

- ct: DICOM series, NIfTI, MetaImage <-> SimpleITK image in HU, with one clear error for each fault
- scan_folder: the scans below a folder
- dicom_series: a changed CT as a derived DICOM series; dicom_identity: what of the source goes into it
- dicom_seg: the lesions' masks as a DICOM segmentation
- gzip_file: compresses on all cores
- hounsfield: whether an image is in HU at all
- nifti_check: what the NIfTI reader would pass over in silence
"""
