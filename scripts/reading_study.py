"""Can readers tell synthetic lesions from real ones? Prepare a blinded study, serve its page, analyse the answers.

    uv run scripts/reading_study.py prepare --real data/nodules --synthetic data/synthetic --cases 60 --out runs/study
    uv run scripts/reading_study.py serve --study runs/study --readers anna,ben
    uv run scripts/reading_study.py analyse --study runs/study --out reports/reading

A set is a prepared dataset, a folder of `<name>_ct.nii.gz` and `<name>_mask.nii.gz`, or a folder of crops
`<name>.nii.gz` in HU with the lesion in the centre. `prepare --sheet true` draws PNG pages instead; then
`analyse --study FOLDER --synthetic-cases '[2,5,9]'` prints what the reader of the pages recognised.
"""

import socket
from dataclasses import dataclass
from pathlib import Path

from foundation.config import ExistingFolder, OutputFolder, Seed, config_dict, launch, read_command


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """A study.

    Attributes:
        real: Real lesions.
        synthetic: Synthetic lesions. Where the sets share names, no mask is shown twice.
        out: Folder of the study.
        split: Of both sets.
        cases: Cases, half of them real; null takes all.
        first: Index of the first mask.
        training: Cases that each reader sees first, with the right answer after each; they take the first masks.
        repeats: Share of the cases that each reader sees twice, at most 0.5.
        field_mm: Edge of the volumes; null takes the largest that every crop fills, at most 80 mm.
        sheet: Draw PNG pages with a sealed key instead of volumes.
        seed: Decides which half is real, and the order.
    """

    real: ExistingFolder
    synthetic: ExistingFolder
    out: OutputFolder
    split: str = "validation"
    cases: int | None = None
    first: Seed = 0
    training: Seed = 0
    repeats: float = 0.2
    field_mm: float | None = None
    sheet: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not 0 <= self.repeats <= 0.5 or (self.cases is not None and self.cases < 2) or self.training == 1:
            raise ValueError(
                f"cases {self.cases}, training {self.training}, repeats {self.repeats}: expected at least 2 cases, "
                "0 or at least 2 training cases, and a share from 0 to 0.5"
            )
        if self.field_mm is not None and not 1 <= self.field_mm <= 512:
            raise ValueError(f"field_mm {self.field_mm}, expected 1 to 512")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The page.

    Attributes:
        study: Folder that `prepare` wrote. Answers and tokens are kept there.
        readers: Names of readers to admit; each gets a token. Those that were admitted before stay.
        host: Address to listen on. On an address that other machines can reach, put a TLS proxy in front.
        port: Port; 0 takes a free one.
    """

    study: ExistingFolder
    readers: tuple[str, ...] | str = ()
    host: str = "127.0.0.1"
    port: int = 8010


@dataclass(frozen=True, kw_only=True)
class AnalyseConfig:
    """The report. It opens the key.

    Attributes:
        study: Folder that `prepare` wrote.
        out: Folder of report.html, report.md, report.json and answers.csv; needed for a study that was served.
        unfinished: Analyse although readers have cases left.
        synthetic_cases: Of a sheet: the numbers of the cases that the reader called synthetic.
        seed: Of the bootstrap.
    """

    study: ExistingFolder
    out: OutputFolder | None = None
    unfinished: bool = False
    synthetic_cases: tuple[int, ...] | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if (self.out is None) == (self.synthetic_cases is None):
            raise ValueError("expected either --out, for a study that was served, or --synthetic-cases, for a sheet")


COMMANDS = {"prepare": PrepareConfig, "serve": ServeConfig, "analyse": AnalyseConfig}
ARGUMENTS = read_command(COMMANDS, __name__)

# Each sub-command imports what takes seconds for itself, so that the page is served at once.
from evaluation.reading.study import ANSWERS, check_study_folder, load_study, open_key, reading_order


def main(config: PrepareConfig | ServeConfig | AnalyseConfig) -> None:
    """Run the sub-command whose config this is."""
    if isinstance(config, PrepareConfig):
        prepare(config)
    elif isinstance(config, ServeConfig):
        serve_study(config)
    elif config.synthetic_cases is not None:
        print_sheet_figures(config.study, config.synthetic_cases)
    else:
        analyse(config)


def prepare(config: PrepareConfig) -> None:
    """Choose the cases and write them."""
    from evaluation.lesions.openings import open_test_split
    from evaluation.reading.cases import chosen_cases, load_set, texture_ratings
    from evaluation.reading.preparation import write_study
    from evaluation.reading.sheet import write_sheet

    check_study_folder(config.out)
    openings = open_test_split(config.real, config.split, "reading_study", config_dict(config))
    (real, left_out), (synthetic, also) = (load_set(path, config.split) for path in (config.real, config.synthetic))
    training = []
    if config.training:
        training = chosen_cases(real, synthetic, config.training, config.first, config.seed + 1)
    cases = chosen_cases(real, synthetic, config.cases, config.first + config.training, config.seed)
    for sentence in (*left_out, *also):
        print(f"left out: {sentence}")
    if config.sheet:
        write_sheet(config.out, cases)
        print(f"{len(cases)} cases on pages in {config.out}")
    else:
        textures = texture_ratings(config.synthetic, config.split) | texture_ratings(config.real, config.split)
        repeats = round(config.repeats * len(cases))
        for warning in write_study(config.out, cases, training, repeats, textures, config.field_mm, config.seed):
            print(f"warning: {warning}")
        study = load_study(config.out)
        shape, field = " x ".join(map(str, study.shape)), study.shape[1] * study.spacing_mm[1]
        print(
            f"{len(cases)} cases, {repeats} of them twice, {len(training)} training cases: volumes of {shape} voxels, "
            f"{field:.0f} mm wide, in {config.out}"
        )
    if openings:
        print(openings)


def serve_study(config: ServeConfig) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from filelock import FileLock, Timeout

    from autoencoder.service.server import bind, serve
    from evaluation.reading.answers import AnswerFile
    from evaluation.reading.app import create_app
    from evaluation.reading.readers import reader_tokens

    study = load_study(config.study)
    names = config.readers.split(",") if isinstance(config.readers, str) else config.readers
    try:
        with FileLock(config.study / ".serving.lock", timeout=0):
            tokens = reader_tokens(config.study, names)
            app = create_app(study, tokens, AnswerFile(config.study / ANSWERS))
            listener = bind(config.host, config.port)
            listener.listen()
            host, port = listener.getsockname()[:2]
            host = socket.gethostname() if host in ("0.0.0.0", "::") else host
            print("the link of each reader; who has it, answers in this name:")
            for reader, token in tokens.items():
                print(f"  {reader}: http://{f'[{host}]' if ':' in host else host}:{port}/#{token}", flush=True)
            print("serving; Ctrl-C ends", flush=True)
            serve(app, listener)
    except Timeout as error:
        raise ValueError(f"{config.study}: another process serves this study; stop it first") from error


def analyse(config: AnalyseConfig) -> None:
    """Open the key and write the report."""
    from evaluation.reading.answers import read_answers
    from evaluation.reading.figures import Read
    from evaluation.reports.reading_report import save_reading_report
    from evaluation.reports.report import check_report_folder

    assert config.out is not None
    check_report_folder(config.out)
    study = load_study(config.study)
    answers = read_answers(config.study / ANSWERS)
    left = {
        reader: len(reading_order(study, reader)) - sum(answer.reader == reader for answer in answers)
        for reader in sorted({answer.reader for answer in answers})
    }
    if not left:
        raise ValueError(f"{config.study / ANSWERS}: holds no answer yet; serve the study first")
    unfinished = {reader: count for reader, count in left.items() if count}
    if unfinished and not config.unfinished:
        names = ", ".join(f"{reader} ({count} left)" for reader, count in unfinished.items())
        raise ValueError(f"not finished: {names}; wait, or open the key now with --unfinished true")
    key = {case.case: case for case in open_key(config.study)}
    reads = [Read(answer, key[answer.case]) for answer in answers]
    save_reading_report(config.out, study, reads, left, config_dict(config), config.seed)
    print(f"wrote {config.out / 'report.html'}")


def print_sheet_figures(folder: Path, called: tuple[int, ...]) -> None:
    """Print a sheet's figures. Raises ValueError for the number of a case that there is not."""
    from evaluation.reading.figures import reading_figures

    key = open_key(folder)
    unknown = set(called) - {case.case for case in key}
    if unknown:
        raise ValueError(f"synthetic_cases has {min(unknown)}, expected numbers from 1 to {len(key)}")
    figures = reading_figures([case.case in called for case in key], [case.real for case in key])
    for name, figure in figures.items():
        print(f"{name.replace('_', ' ')}: {figure[0]:.2f} ({figure[1]:.2f} ... {figure[2]:.2f})")
    print("synthetic lesions that were recognised:", *(c.lesion for c in key if not c.real and c.case in called))


if __name__ == "__main__":
    launch(main, ARGUMENTS)
