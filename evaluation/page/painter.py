"""The pipeline of the page, the scans and paintings that it keeps in memory, and the files of one result."""

import json
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from diffusion.attributes import SCALES, requestable
from diffusion.sampling.loading import weights_of
from diffusion.shapes import met_by_shape, shapes_for
from evaluation.inpainting.config import InpaintConfig
from evaluation.inpainting.painting import OnStep, Painted, paint, write_result
from evaluation.inpainting.planning import APART_MM, Planned, labelled, planned, read_scan
from evaluation.page.attributes import NOTES
from evaluation.page.schema import (
    OWN_TABLE,
    InpaintBody,
    Lesion,
    SiteBody,
    as_command,
    as_python,
    check_lesions,
    inpaint_options,
    lesion_table,
)
from evaluation.page.sessions import Sessions, write_json
from imaging.files.ct import write_ct
from imaging.geometry import index_of_point, point_of_index
from imaging.lesions.sites import FreeLung, free_lung_sites

if TYPE_CHECKING:
    from diffusion import LesionInpaintPipeline

SCANS_KEPT, PAINTINGS_KEPT = 2, 2  # in memory
PHANTOM_SHAPE, PHANTOM_MM = (96, 160, 160), (2.5, 2.0, 2.0)  # as scripts/demo.py
HU_RANGE = (-32768, 32767)


class Scan(NamedTuple):
    """A scan in memory, with what `read_scan` found."""

    ct: sitk.Image
    slices: list[Path]
    lung: FreeLung | None
    notes: list[str]


@dataclass
class Painter:
    """Paints results into the folders of sessions.

    Attributes:
        pipeline, folder, source: The pipeline, the local folder of its weights, and how scripts/inpaint.py names it.
        sessions: The folders.
        paired: How scripts/inpaint.py names the pipeline of learned shapes; None has none.
    """

    pipeline: "LesionInpaintPipeline"
    folder: Path
    source: str
    sessions: Sessions
    paired: str | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _scans: OrderedDict[str, Scan] = field(default_factory=OrderedDict)
    _paintings: OrderedDict[tuple[str, str], Painted] = field(default_factory=OrderedDict)

    def attributes(self) -> list[dict[str, Any]]:
        """What can be requested of a lesion: name, range, named values, who uses it, cost, and how well it is met."""
        unet = requestable(self.pipeline.unet.config.get("attributes") or ())
        guide = tuple(self.pipeline.guide.attributes) if self.pipeline.guide is not None else ()
        shape = met_by_shape(shapes_for(self.pipeline, "real"))
        used_by = {"U-Net": unet, "guide": guide, "shape": shape}
        names = [name for name in SCALES if any(name in known for known in used_by.values()) and name != "diameter_mm"]
        return [
            {
                "name": name,
                "low": SCALES[name].requestable[0],
                "high": SCALES[name].requestable[1],
                "names": dict(SCALES[name].names),
                "used_by": [who for who, known in used_by.items() if name in known],
                **NOTES.get(name, {}),
            }
            for name in names
        ]

    def scan(self, session: str) -> Scan:
        """A session's scan, from memory or from its files. Raises ValueError if these cannot be read."""
        about = self.sessions.scan(session)
        with self._lock:
            if session not in self._scans:
                self._scans[session] = self.read(self.sessions.folder(session), about["path"], about.get("series_uid"))
                while len(self._scans) > SCANS_KEPT:
                    self._scans.popitem(last=False)
            self._scans.move_to_end(session)
            return self._scans[session]

    def read(self, folder: Path, name: str, series_uid: str | None) -> Scan:
        """A scan from a session's folder; messages do not tell where that is."""
        place: dict[str, Any] = {"center": (0.0, 0.0, 0.0), "diameter_mm": 10.0}  # none is used by reading
        config = InpaintConfig(ct=folder / name, out=folder, series_uid=series_uid, **place)
        notes: list[str] = []
        try:
            return Scan(*read_scan(config, notes.append), [without_path(note, folder) for note in notes])
        except ValueError as error:
            raise ValueError(without_path(str(error), folder)) from error

    def accept_scan(self, session: str, name: str, series_uid: str | None) -> dict[str, Any]:
        """Read an uploaded scan for the first time, and note what it is. Raises ValueError if it cannot be read."""
        folder = self.sessions.folder(session)
        scan = self.read(folder, name, series_uid)
        about = {
            "path": name,
            "shape": list(scan.ct.GetSize()[::-1]),
            "spacing_mm": list(scan.ct.GetSpacing()[::-1]),
            "flips": flips_of(scan.ct),
            "has_lung": scan.lung is not None,
            "notes": scan.notes,
        }
        write_json(folder / "scan.json", about | ({"series_uid": series_uid} if series_uid else {}))
        with self._lock:
            self._scans[session] = scan
        return about

    def forget(self, session: str) -> None:
        """Take a session's scan and paintings from memory."""
        with self._lock:
            self._scans.pop(session, None)
            for key in [key for key in self._paintings if key[0] == session]:
                del self._paintings[key]

    def volume(self, session: str) -> bytes:
        """The scan for the viewer: HU, int16 little-endian, z slowest, flipped along the axes that `flips` names."""
        scan = self.scan(session)
        return shown(sitk.GetArrayViewFromImage(scan.ct), flips_of(scan.ct)).tobytes()

    def site(self, session: str, body: SiteBody) -> list[float]:
        """A place in the lung, voxel index z, y, x. Raises ValueError if there is none."""
        scan = self.scan(session)
        if scan.lung is None:
            raise ValueError("no lung was found in this scan, so no site can be suggested; click where the lesion goes")
        free = scan.lung
        for lesion in body.lesions:
            if lesion.center is not None and lesion.diameter_mm is not None:
                free = free.without(point_of_index(scan.ct, lesion.center), lesion.diameter_mm / 2 + APART_MM)
        (site,) = free_lung_sites(free, body.diameter_mm, 1, np.random.default_rng(body.seed), site=body.kind)
        return [float(round(at)) for at in index_of_point(scan.ct, site)]

    def check(self, body: InpaintBody) -> None:
        """Raise ValueError for what is wrong with a request and needs no voxel."""
        if body.settings.shape == "learned" and self.paired is None:
            raise ValueError('shape "learned": this server has no paired pipeline; start it with --paired FOLDER')
        about = self.sessions.scan(body.session)
        check_lesions(body.lesions, [attribute["name"] for attribute in self.attributes()])
        for number, lesion in enumerate(body.lesions, 1):
            if lesion.mask is not None:
                if not (self.sessions.folder(body.session) / "masks" / f"{lesion.mask}.json").is_file():
                    raise ValueError(f"lesion {number}: no such mask in this session; upload it again")
            elif any(not 0 <= at < size for at, size in zip(lesion.center or (), about["shape"], strict=True)):
                raise ValueError(
                    f"lesion {number}: center {lesion.center} is outside the scan's {about['shape']} voxels"
                )

    def run(self, body: InpaintBody, result: str, on_step: OnStep, say: Callable[[str], None]) -> dict[str, Any]:
        """Paint lesions and write the files of a result; its folder appears complete or not at all.

        Args:
            body: The request.
            result: Name of the result.
            on_step: Is called after each step; what it raises ends the work.
            say: Takes notes for the user.
        Returns: What is known of the result.
        Raises: ValueError: If a lesion cannot be painted.
        """
        session = self.sessions.folder(body.session)
        work, about = session / "results" / f"{result}.part", self.sessions.scan(body.session)
        scan = self.scan(body.session)
        work.mkdir()
        try:
            if len(body.lesions) > 1 or body.lesions[0].mask:
                (work / OWN_TABLE[0]).write_text(lesion_table(body.lesions))
            if any(lesion.mask for lesion in body.lesions):
                write_ct(self._brushed(session, body.lesions, scan.ct), work / OWN_TABLE[1])
            dicom = None if not scan.slices else {k: v for k, v in about.items() if k == "series_uid"}
            config = InpaintConfig(
                **inpaint_options(body, session / about["path"], work, self.source, self.paired, dicom),
                out=work,
                device="auto",
            )
            plan = list(planned(config, self.pipeline, scan.ct, scan.lung, say))
            labelled(plan, scan.ct)
            painted = paint(config, self.pipeline, plan, self._begun(body, plan, scan.ct), on_step, say)
            self._keep(body, painted)
            weights = weights_of(config, self.pipeline, self.folder)
            record = write_result(config, self.pipeline, weights, scan.ct, scan.slices, painted, lambda line: None)
            record["settings"] |= {"ct": about["path"], "out": "."}
            record["settings"] |= {k: v.name for k in ("lesions", "mask") if (v := getattr(config, k)) is not None}
            write_json(work / "record.json", record)
            label = Path("SCAN") if scan.slices else Path(about["path"])
            options = inpaint_options(body, label, Path(), self.source, self.paired, dicom)
            entry = {
                "result": result,
                "number": 1 + max((found["number"] for found in self.sessions.results(body.session)), default=0),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "lesions": [lesion.model_dump(exclude_defaults=True) for lesion in body.lesions],
                "settings": body.settings.model_dump(),
                "measured": record["lesions"],
                "refused": record["refused"],
                "changed_outside_paint": record["changed_outside_paint"],
                "command": as_command(options),
                "python": as_python(options),
                **self._change(work, scan.ct, painted, record),
            }
            write_json(work / "result.json", entry)
            work.rename(session / "results" / result)
            return entry
        except ValueError as error:
            raise ValueError(without_path(str(error), work)) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _change(self, work: Path, ct: sitk.Image, painted: Painted, record: dict[str, Any]) -> dict[str, Any]:
        """Write what the viewer shows of a result: the box of all that was painted, HU and labels in it."""
        assert painted.paint_mask is not None
        flips = flips_of(ct)
        where = flipped(sitk.GetArrayViewFromImage(painted.paint_mask), flips) > 0
        box = tuple(
            slice(int(at.min()), int(at.max()) + 1) for at in (np.flatnonzero(where.any(axis=a)) for a in OTHER_AXES)
        )
        after = flipped(sitk.GetArrayViewFromImage(painted.image), flips)[box]
        label_image = labelled(painted.kept, ct)  # a view does not keep its image
        labels = flipped(sitk.GetArrayViewFromImage(label_image), flips)[box]
        (work / "after.raw").write_bytes(shown(after, (False,) * 3).tobytes())
        (work / "labels.raw").write_bytes(labels.astype(np.uint8).tobytes())
        names = sorted(path.name for path in work.iterdir() if path.suffix in (".gz", ".json", ".csv", ".dcm", ".png"))
        return {"box": [[along.start, along.stop] for along in box], "files": names, "dicom": (work / "ct").is_dir()}

    def _brushed(self, session: Path, lesions: Sequence[Lesion], ct: sitk.Image) -> sitk.Image:
        """Brush masks as labels 1, 2, ... Raises ValueError where two overlap."""
        labels = np.zeros(ct.GetSize()[::-1], np.uint8)
        for label, name in enumerate((lesion.mask for lesion in lesions if lesion.mask), 1):
            origin, size = json.loads((session / "masks" / f"{name}.json").read_text()).values()
            part = np.frombuffer((session / "masks" / f"{name}.raw").read_bytes(), np.uint8).reshape(size) > 0
            here = labels[tuple(slice(start, start + n) for start, n in zip(origin, size, strict=True))]
            if (here[part] > 0).any():
                raise ValueError(f"the brush mask of lesion {label} overlaps an earlier one; erase there")
            here[part] = label
        image = sitk.GetImageFromArray(labels)
        image.CopyInformation(ct)
        return image

    def _begun(self, body: InpaintBody, plan: Sequence[Planned], ct: sitk.Image) -> Painted:
        """The longest beginning of a request that is in memory already, as its own plan describes it."""
        for count in range(len(body.lesions), 0, -1):
            found = self._paintings.get((body.session, key_of(body, count)))
            if found is not None:
                refused = {entry["number"] for entry in found.refused}
                fresh = [lesion for number, lesion in enumerate(plan[:count], 1) if number not in refused]
                kept = [new._replace(seed=old.seed) for new, old in zip(fresh, found.kept, strict=True)]
                return found._replace(kept=tuple(kept))
        return Painted(ct)

    def _keep(self, body: InpaintBody, painted: Painted) -> None:
        with self._lock:
            self._paintings[body.session, key_of(body, len(body.lesions))] = painted
            while len(self._paintings) > PAINTINGS_KEPT:
                self._paintings.popitem(last=False)


OTHER_AXES = ((1, 2), (0, 2), (0, 1))


def phantom_file(root: Path, seed: int = 1) -> Path:
    """The chest phantom of scripts/demo.py as a file of a folder; it is made once.

    Args:
        root: The folder.
        seed: Of the phantom.
    """
    from imaging.phantom.chest import chest_phantom, phantom_image

    path = root / f"phantom_{seed}.nii.gz"
    if not path.exists():
        write_ct(phantom_image(chest_phantom(PHANTOM_SHAPE, PHANTOM_MM, n_nodules=2, seed=seed)), path)
    return path


def key_of(body: InpaintBody, count: int) -> str:
    """What decides the painting of the first lesions of a request."""
    return json.dumps([body.settings.model_dump(), [lesion.model_dump() for lesion in body.lesions[:count]]])


def flips_of(ct: sitk.Image) -> list[bool]:
    """Along which of z, y, x a viewer turns the scan, so that the patient's right is on the left and the head is up."""
    direction = np.array(ct.GetDirection()).reshape(3, 3)
    if not np.array_equal(np.abs(direction).argmax(axis=0), np.arange(3)):
        return [False, False, False]  # not axial: shown as it is stored
    return [bool(direction[axis, axis] < 0) for axis in (2, 1, 0)]


def flipped(array: np.ndarray, flips: Sequence[bool]) -> np.ndarray:
    """A view."""
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def shown(ct_hu: np.ndarray, flips: Sequence[bool]) -> np.ndarray:
    """HU as the viewer takes them, int16 little-endian."""
    return np.ascontiguousarray(np.clip(np.rint(flipped(ct_hu, flips)), *HU_RANGE).astype("<i2"))


def without_path(message: str, folder: Path) -> str:
    """A message without the path of a session's folder."""
    return message.replace(f"{folder}/", "").replace(str(folder), "the session")
