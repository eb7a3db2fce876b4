"""A module of 3D Slicer: paint a synthetic lung nodule into the scan that is shown, at a point.

Start `uv run scripts/serve_page.py --open-browser false`. In Slicer, add this folder under Edit > Application Settings
> Modules > Additional module paths, restart, and choose the module "Lesion Diffusion" (category Examples). It needs no
package that Slicer does not have. Choose the scan, place a point of a markups list, and press "Paint".
"""

import json
import os
import tempfile
import urllib.error
import urllib.request

import ctk
import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget


class LesionDiffusion(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "Lesion Diffusion"
        parent.categories = ["Examples"]
        parent.helpText = "Paints a synthetic lung nodule into a CT. For research; not for diagnosis."
        parent.contributors = ["Lesion Diffusion"]


class LesionDiffusionWidget(ScriptedLoadableModuleWidget):
    """Scan, point, diameter, texture, seed, and a button."""

    def setup(self):
        """Build the panel."""
        super().setup()
        box = ctk.ctkCollapsibleButton()
        box.text = "Lesion"
        self.layout.addWidget(box)
        form = qt.QFormLayout(box)
        self.server = qt.QLineEdit("http://127.0.0.1:8020")
        self.scan = self.selector("vtkMRMLScalarVolumeNode")
        self.point = self.selector("vtkMRMLMarkupsFiducialNode")
        self.diameter = qt.QDoubleSpinBox()
        self.diameter.setRange(3, 40)
        self.diameter.value = 12
        self.texture = qt.QComboBox()
        self.texture.addItems(["any", "ground-glass", "part-solid", "solid"])
        self.seed = qt.QSpinBox()
        self.seed.setRange(0, 1000000)
        rows = {"Server": self.server, "Scan": self.scan, "Point": self.point, "Diameter, mm": self.diameter}
        for label, widget in {**rows, "Texture": self.texture, "Seed": self.seed}.items():
            form.addRow(label, widget)
        button = qt.QPushButton("Paint")
        button.connect("clicked(bool)", self.paint)
        form.addRow(button)
        self.layout.addStretch(1)

    def selector(self, kind):
        """A box that lists the scene's nodes of a kind."""
        box = slicer.qMRMLNodeComboBox()
        box.nodeTypes = [kind]
        box.setMRMLScene(slicer.mrmlScene)
        return box

    def paint(self):
        """Send the scan and the lesion, and load what comes back."""
        scan, points = self.scan.currentNode(), self.point.currentNode()
        if scan is None or points is None or points.GetNumberOfControlPoints() == 0:
            slicer.util.errorDisplay("Choose a scan, and a markups list with a point in the lung.")
            return
        lesion = {"center": voxel_zyx(scan, points), "diameter_mm": self.diameter.value, "seed": self.seed.value}
        if self.texture.currentText != "any":
            lesion["attributes"] = {"texture": self.texture.currentText}
        with tempfile.TemporaryDirectory() as folder, slicer.util.tryWithErrorDisplay("The lesion was not painted."):
            path = os.path.join(folder, "scan.nii.gz")
            slicer.util.saveNode(scan, path)
            with open(path, "rb") as file:
                painted = paint(self.server.text, file.read(), lesion, self.show)
            path = os.path.join(folder, "painted.nii.gz")
            with open(path, "wb") as file:
                file.write(painted)
            volume = slicer.util.loadVolume(path, {"name": scan.GetName() + " with lesion"})
            slicer.util.setSliceViewerLayers(background=volume, keepCurrentVisibility=True)

    def show(self, state):
        """Tell in the status bar how far the job is."""
        slicer.util.showStatusMessage(f"Lesion Diffusion: {state['state']}, step {state.get('step', 0)}", 2000)
        slicer.app.processEvents()


def voxel_zyx(scan, points):
    """The last point of a list as the scan's voxel index z, y, x."""
    import vtk

    matrix, ras = vtk.vtkMatrix4x4(), [0.0, 0.0, 0.0]
    scan.GetRASToIJKMatrix(matrix)
    points.GetNthControlPointPositionWorld(points.GetNumberOfControlPoints() - 1, ras)
    return [round(at, 2) for at in matrix.MultiplyPoint([*ras, 1.0])[2::-1]]


def paint(server, scan, lesion, show):
    """Paint one lesion by the REST service.

    Args:
        server: Its address; a token is taken from the environment variable LESION_DIFFUSION_TOKEN.
        scan: Bytes of a .nii.gz file.
        lesion: As POST /v1/inpaint takes it.
        show: Is called with each state of the job.
    Returns: Bytes of the .nii.gz file with the lesion.
    Raises: RuntimeError: With the server's sentence.
    """

    def send(method, path, body=None, kind="application/json"):
        request = urllib.request.Request(f"{server.rstrip('/')}/v1/{path}", body, {"Content-Type": kind}, method=method)
        token = os.environ.get("LESION_DIFFUSION_TOKEN")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            return urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["detail"]) from error

    session = json.load(send("POST", "sessions"))["session"]
    own = f"sessions/{session}"
    try:
        send("PUT", f"{own}/scan?name=scan.nii.gz", scan, "application/octet-stream")
        body = json.dumps({"session": session, "lesions": [lesion]}).encode()
        job, state = json.load(send("POST", "inpaint", body))["job"], {}
        for line in send("GET", f"{own}/jobs/{job}/events"):
            if line.startswith(b"data: "):
                state = json.loads(line[len(b"data: ") :])
                show(state)
        if state.get("state") != "done":
            raise RuntimeError(state.get("detail") or "the server ended before the lesion was finished")
        return send("GET", f"{own}/results/{job}/files/ct.nii.gz").read()
    finally:
        send("DELETE", own)
