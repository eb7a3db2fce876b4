"""The table of a synthesis, as Parquet: one row for every sample, whether it became a lesion or was rejected, and one
for every nodule that was in the scan before.

`datasets.load_dataset("parquet", data_files="out/manifest.parquet")` or `pandas.read_parquet` reads it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from foundation.atomic import write_atomically
from foundation.text_files import reason_of

MOST_ROWS, MOST_BYTES = 10**5, 2**26  # of one scan: 255 lesions of some attempts are a thousand rows
ASKED = (
    "diameter_mm",
    "malignancy",
    "lobulation",
    "spiculation",
    "texture",
    "mean_hu",
    "p10_hu",
    "p50_hu",
    "p90_hu",
)
SCHEMA = pa.schema(
    [
        ("lesion", pa.int64()),  # its number, from 0; null for a nodule that was in the scan
        ("attempt", pa.int32()),  # from 0; of a lesion's samples at most the last is accepted
        ("accepted", pa.bool_()),  # whether it is a synthetic lesion of the images
        ("reason", pa.string()),  # why it was rejected, in a word or two
        ("detail", pa.string()),  # and in figures
        ("output", pa.string()),  # the folder
        ("scan", pa.string()),  # the source, below the folder of scans
        ("patient", pa.string()),  # a code of the DICOM PatientID, or the source again where there is none
        ("source", pa.string()),  # "synthetic", or the file that names a nodule of the scan's own, and where in it
        ("nodules_from", pa.string()),  # the file that names the scan's own nodules, or "none known"
        ("label", pa.int32()),  # the value in lesions.nii.gz, of a synthetic lesion or of a nodule of the scan's own
        ("readers", pa.int32()),  # how many marked the scan's own nodule; null where its file does not say
        ("center_zyx", pa.list_(pa.float64())),  # voxel index of the site
        ("center_mm", pa.list_(pa.float64())),  # the site, (x, y, z) in the DICOM patient frame
        ("site", pa.string()),  # what the site was asked to be: "auto", "pleural", ...
        ("wall_mm", pa.float64()),  # from the site to the wall of the lung
        ("box_zyx", pa.list_(pa.int32())),  # the mask's first voxel and one past its last
        ("balance", pa.string()),  # the classes it was drawn for, such as "texture 1 to 2.5, malignancy 1 to 2.5"
        ("mask_diameter_mm", pa.float64()),  # asked of the mask: of the sphere that has its volume
        ("mask_shape", pa.int64()),  # number of the real shape; null for a procedural one
        ("mask_scale", pa.float64()),  # the rest of how it is placed: see `diffusion.shapes.Chosen`
        ("mask_turn_deg", pa.float64()),
        ("mask_mirrored", pa.list_(pa.bool_())),
        ("mask_lobulation", pa.float64()),  # of the shape
        ("mask_spiculation", pa.float64()),
        ("mask_seed", pa.int64()),
        ("noise_seed", pa.int64()),
        *((f"requested_{name}", pa.float64()) for name in ASKED),
        ("volume_mm3", pa.float64()),  # of the mask; from here on measured in the finished image
        ("mean_hu", pa.float64()),
        ("p10_hu", pa.float64()),
        ("p50_hu", pa.float64()),
        ("p90_hu", pa.float64()),
        ("distance", pa.float64()),  # to real lesions
        ("plausibility", pa.float64()),
        ("grid_share", pa.float64()),  # of a lesion's contrast, as the scan's grid can show it
        ("around_hu", pa.float64()),  # of the lung around
        ("label_dice", pa.float64()),  # of the lesion's own outline with its label
        ("empty_share", pa.float64()),  # of the label
        ("contrast_hu", pa.float64()),  # of the lesion above the lung around
    ]
)


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write rows; a column that a row lacks is null.

    Raises: ValueError: If a row has a column that there is not.
    """
    listed = list(rows)
    unknown = {name for row in listed for name in row} - set(SCHEMA.names)
    if unknown:
        raise ValueError(
            f"columns {', '.join(sorted(unknown))}: not in the manifest, which has {', '.join(SCHEMA.names)}"
        )
    pq.write_table(pa.Table.from_pylist(listed, SCHEMA), path)


def join_manifests(parts: Iterable[Path], path: Path) -> pa.Table:
    """One manifest of several, in their order; it appears complete or not at all.

    Raises: ValueError: If a part is no manifest.
    """
    tables = []
    for part in parts:
        try:
            announced = pq.read_metadata(part)
            size = sum(announced.row_group(index).total_byte_size for index in range(announced.num_row_groups))
            if size > MOST_BYTES or announced.num_rows > MOST_ROWS:
                raise OSError(f"it unpacks to {announced.num_rows} rows of {size} bytes, more than any scan's")
            tables.append(pq.read_table(part, schema=SCHEMA))
        except Exception as error:  # Arrow raises many kinds on damaged files
            raise ValueError(
                f"{part}: cannot be read as a manifest ({reason_of(error)}); delete its folder, and run again"
            ) from error
    table = pa.concat_tables(tables)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))
    return table


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The rows of a manifest; columns that an older one lacks are None.

    Raises: ValueError: If it cannot be read as one.
    """
    try:
        return pq.read_table(path, schema=SCHEMA).to_pylist()
    except Exception as error:  # Arrow raises many kinds on damaged files
        raise ValueError(
            f"{path}: cannot be read as a manifest ({reason_of(error)}); run synthesize.py again"
        ) from error
