"""CT files in and out.

- ct: DICOM series, NIfTI, MetaImage <-> SimpleITK image in HU; each fault has one clear error
- scan_folder: finds the scans below a folder; walk: the one rule for links to folders
- hounsfield: checks that values are HU
- nifti_check: finds faults that the NIfTI reader does not report
- dicom_series: writes a changed CT as a derived DICOM series
- dicom_identity: which attributes of the input series are copied
- dicom_seg: writes lesion masks as a DICOM segmentation; dicom_nodules: reads nodules from one, or from a structure set
"""
