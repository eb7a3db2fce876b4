"""What all other packages use. Only `device` imports torch.

- config: a frozen dataclass from YAML and the command line, checked before slow imports
- command: the console command `lesion-diffusion`; shipped: where scripts, configs and models are; rooms:
  whether the project's packages are the ones that Python finds
- atomic: files and folders that appear complete or not at all; output: whether a path can be written
- document: pages of blocks, written as HTML and Markdown
- web: local pages and their headers
- device: the device that a script computes on
- lazy: names that a package imports on first use
- claimed_folder: a folder of work, continued by the same settings and refused to others
- draws: stateless randomness; shards: work divided among processes
- upload: folders to the Hugging Face Hub
"""
