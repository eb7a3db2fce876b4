"""A local page that paints lesions into a scan, and the REST service behind it.

- app: the paths; guard: what is refused before
- schema: what a request may say, and the command and the Python that do the same
- sessions: a folder for each session, kept over a restart; uploads: scans that arrive, with limits
- painter: the pipeline, the scans in memory, and one result; jobs: the bounded queue in front of it
- attributes: what each attribute costs and how well it is met
"""
