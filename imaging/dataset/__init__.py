"""Prepared datasets of nodules and scans.

- nodules: the columns of a nodule's row; rows: writes and reads typed rows by split
- crop: one nodule of a CT as a row; variants: augmented versions of a row, for stage 2
- sources: nodules of every data source in one form
- nifti_pairs: reads NIfTI pairs with a table; lab_files: reads .mat and .npy files
- splits: training, validation and test patients; label_policy: which nodules are benign and malignant
- card, licence, publishing: the dataset's card, its licence, the push to the Hub
- qc_report: a page to look at the nodules
- existing_nodules: the nodules that a scan has already, from label images, LIDC's XML or DICOM; patients: whose scan
  it is
- manifest: the table of a synthesis; synthetic_scans: a scan with its lesions, or crops of them
- scan_volumes: whole scans, for training patches
"""
