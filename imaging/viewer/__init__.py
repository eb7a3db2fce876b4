"""The viewer of local pages: a volume in three planes and from any side, in a browser, without a framework.

`viewer.js` and `volume3d.js` are JavaScript modules, `viewer.css` their style. A server gives them beside its page
(`foundation.web`). The heads of the modules document their interfaces. The planes show volumes of up to
512 x 512 x 300 voxels.
"""

from pathlib import Path

FILES = {f"/{name}": Path(__file__).with_name(name) for name in ("viewer.js", "volume3d.js", "viewer.css")}
