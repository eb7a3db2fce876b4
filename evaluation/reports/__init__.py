"""The results of an evaluation as HTML, Markdown, JSON and pictures.

- document: a report as blocks, and the files made of them
- lesion_report: synthetic lesions against real ones: results, tables, how to read them
- lesion_pictures: which pictures that report gets
- baseline_table: the source's Table 1 with our methods in it, and what they cost
- guidance_report, guidance_figures, guidance_pictures: lesions of the character requested
- classifier_report: what a guide's classifiers tell of held-out nodules
- reconstruction_report: autoencoders: results, tables, pictures, how to read them
- figures: curves, galleries and scatter plots, one PNG each
- slices: rows of volumes as slices
"""
