"""The results of an evaluation as HTML, Markdown, JSON and pictures.

- report: what all reports share: order, folder, files
- lesion_report: synthetic against real lesions; lesion_pictures: its pictures
- baseline_table: Table 1 of the texture-loss proposal with our methods in it
- guidance_report, guidance_figures, guidance_pictures: lesions with requested attributes
- classifier_report: a guide's classifiers on held-out nodules
- reconstruction_report: autoencoders
- reading_report: a reading study
- figures: curves, galleries and scatter plots, one PNG each; slices: rows of volumes as slices
- notebook: a lesion in a notebook
"""
