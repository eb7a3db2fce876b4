"""The ground floor: what every room stands on, without torch but for `device`.

- config: a frozen dataclass from YAML and the command line, checked before anything heavy is imported
- lazy: names that a package imports when they are asked for
- atomic: files and folders that appear complete or not at all
- claimed_folder: folders of work that is continued by the same settings and refused to others
- draws: stateless randomness; shards: work divided among processes
- document: pages of blocks, as HTML and Markdown from the templates; device: where a script computes
- upload: folders to the Hugging Face Hub
"""
