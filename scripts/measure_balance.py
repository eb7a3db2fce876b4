"""Count the nodules of a table by size, texture and malignancy, as a table for `synthesize.py --balance`.

uv run scripts/measure_balance.py --nodules lidc_shapes/shapes.csv --out lidc.csv
The classes are those of another table. Only nodules that are in a class of every attribute count. The shipped table,
evaluation/lesions/balance_lidc.csv, was counted in the outlines of 2350 nodules of LIDC-IDRI.
"""

from dataclasses import dataclass

from foundation.config import ExistingFile, OutputFile, WeightsSource, launch, read_arguments


@dataclass(frozen=True)
class BalanceConfig:
    """What to count.

    Attributes:
        nodules: CSV table with a row for each nodule and a column for each attribute.
        out: CSV table to write.
        classes: Table that names the classes: "equal", or a CSV file.
    """

    nodules: ExistingFile
    out: OutputFile
    classes: WeightsSource = "equal"


ARGUMENTS = read_arguments(BalanceConfig, __name__)

from evaluation.lesions.balance import counted, read_balance, write_balance
from foundation.atomic import write_atomically
from imaging.files.csv_table import read_frame, text_columns


def main(config: BalanceConfig) -> None:
    """Read, count, write and print."""
    classes = read_balance(config.classes)
    names = list(dict.fromkeys(one.attribute for one in classes))
    table = read_frame(config.nodules, (), names)
    if text_columns(table, names):
        raise ValueError(f"{config.nodules}: column {text_columns(table, names)[0]} holds text, expected numbers")
    rows = counted(classes, {name: table[name].to_numpy(float) for name in names})
    write_atomically(config.out, lambda temporary: write_balance(temporary, [one._asdict() for one in rows]))
    total = sum(one.share for one in rows if one.attribute == names[0])
    print(f"{total:.0f} of {len(table)} nodules: {config.out}")
    for one in rows:
        print(f"{one!s:<28}{one.share:>8.0f}{one.share / max(total, 1):>8.1%}")


if __name__ == "__main__":
    launch(main, ARGUMENTS)
