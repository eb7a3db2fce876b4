"""Blinded reading studies: can readers tell synthetic lesions from real ones?

- cases: which lesions are shown
- sheet: the cases as PNG pages, for a quick look
- study: the folder with volumes of equal size and a sealed key, and the order in which a reader sees them; preparation:
  writes it
- answers: a file that grows by a line an answer; readers: who may answer
- app: the HTTP paths; page/: what the browser loads, with the viewer of `imaging.viewer`
- figures: what the answers say
"""
