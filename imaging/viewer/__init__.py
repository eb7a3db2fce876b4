"""The viewer of local pages: a volume in three planes, in a browser, without a framework.

`viewer.js` is one JavaScript module, `viewer.css` its style; a server gives both beside its page (`foundation.web`).
The head of the module documents its interface. It draws volumes of up to 512 x 512 x 300 voxels.
"""

from pathlib import Path

FILES = {f"/{name}": Path(__file__).with_name(name) for name in ("viewer.js", "viewer.css")}
