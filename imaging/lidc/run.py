"""Many scans in processes: resumable, with progress, and stopped neither by a bad scan nor by a killed process."""

from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import SimpleITK as sitk
from tqdm import tqdm

from foundation.atomic import TEMPORARY
from imaging.lidc.scan_nodules import ScanResult, ScanSettings, load_result, prepare_scan, result_path, save_result
from imaging.lidc.scans import LeftOut, Scan


def prepare_scans(
    scans: Iterable[Scan], settings: ScanSettings, work: Path, workers: int = 1
) -> dict[Path, ScanResult]:
    """Prepare the scans whose result is not in the work folder yet.

    A process can be killed by the system (memory) or by a decoder's crash. Then the scans that it may have been
    reading are tried one by one, each in a process of its own, and one that kills it again is left out.

    Args:
        scans: From `find_scans` or `read_scan_table`.
        settings: What decides their rows.
        work: Existing folder of results; a result is found again as long as its files and the settings are the same.
        workers: Number of processes.
    Returns: The file of each scan's result, in the scans' order, with the result without its arrays.
    """
    paths = {result_path(work, scan, settings): scan for scan in scans}
    for stale in work.glob(f"{TEMPORARY}*"):  # of a run that was killed
        stale.unlink()
    missing = [path for path in paths if not path.exists()]
    if len(missing) < len(paths):
        print(f"{len(paths) - len(missing)} of {len(paths)} scans are done already")
    with tqdm(total=len(missing), desc="scans") as bar:
        while missing:
            suspects = _run(missing, paths, settings, workers, bar)
            for path in suspects:
                if not path.exists():
                    _run_alone(path, paths[path], settings)
                    bar.update()
            missing = [path for path in missing if not path.exists()]
    return {path: load_result(path, with_arrays=False) for path in paths}


def _run(
    missing: Sequence[Path], paths: dict[Path, Scan], settings: ScanSettings, workers: int, bar: tqdm
) -> list[Path]:
    """Prepare scans until all are done or a process dies; returns those under way when it died."""
    waiting = iter(missing)
    running: dict[Future[None], Path] = {}
    try:
        with ProcessPoolExecutor(workers, initializer=_use_one_thread) as pool:
            while True:
                while len(running) < 2 * workers and (path := next(waiting, None)) is not None:
                    running[pool.submit(_prepare_and_save, path, paths[path], settings)] = path
                if not running:
                    return []
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    del running[future]
                    bar.update()
    except BrokenProcessPool:
        return sorted(running.values())


def _run_alone(path: Path, scan: Scan, settings: ScanSettings) -> None:
    try:
        with ProcessPoolExecutor(1, initializer=_use_one_thread) as pool:
            pool.submit(_prepare_and_save, path, scan, settings).result()
    except BrokenProcessPool:
        reason = "the process that read it was killed, by lack of memory or by a decoder's crash"
        entry = LeftOut("scan", scan.patient_id, scan.scan_id, str(scan.files[0].parent), reason)
        save_result(path, ScanResult(left_out=[entry]))


def _prepare_and_save(path: Path, scan: Scan, settings: ScanSettings) -> None:
    save_result(path, prepare_scan(scan, settings))


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
