"""From a CT and a mask to a CT with a lesion.

- request: what a call requests; pipeline: `LesionInpaintPipeline`; paired_pipeline: `PairedLesionPipeline`, which makes
  the mask, too; lesion_pipeline: what both share
- crops, scan_crop: from tensors or a whole scan to the model's grid, and back
- steering: how the request moves the U-Net's output at each step; guide: the interface of a classifier guide;
  measured_guidance: requested HU, measured in the decoded lesion
- samplers: Diffusers' schedulers by name; loading: the pipeline that a script names; components: the modules of a saved
  pipeline
- scan_translation: a whole scan into another kind of CT
"""
