"""From a CT and a mask to a CT with a lesion.

- pipeline: `LesionInpaintPipeline`; crops: from a scan to the model's grid and back
- steering: how requested attributes move the U-Net's output; guide: the interface of a classifier guide;
  measured_guidance: HU that the decoded lesion meets
- samplers: Diffusers' schedulers by name; loading: the pipeline that a script names; components: the modules of a saved
  pipeline
"""
