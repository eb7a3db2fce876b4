"""Open a local page to place a lesion in a scan, shape it and choose its character.

uv run scripts/serve_page.py
LESION_DIFFUSION_TOKEN=... uv run scripts/serve_page.py --host 0.0.0.0 --open-browser false

The page begins with a chest phantom. The same server is a REST service: POST /v1/inpaint, described by
/v1/openapi.json. Sessions are folders below --folder; they stay when the server ends and are deleted when nobody has
used them for --expiry-hours. Give the token in the environment: the list of processes does not show it there.
"""

import logging
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from foundation.config import SHIPPED_PIPELINE, ModelSource, OutputFolder, launch, read_arguments


@dataclass(frozen=True)
class PageConfig:
    """The page and its service.

    Attributes:
        pipeline: Folder or Hugging Face Hub repository of the pipeline, or the name of a shipped one.
        paired: Paired pipeline, folder or repository, for the shape "learned"; null offers none.
        folder: Of the sessions, with uploaded scans and results. Only its owner can read it.
        host: Address to listen on; an address that other machines can reach needs a token and a TLS proxy.
        port: Port; 0 takes a free one.
        token: Token that clients must send; null takes the environment variable LESION_DIFFUSION_TOKEN.
        open_browser: Open the page in a browser of this machine.
        expiry_hours: Time without a request after which a session is deleted.
        max_sessions: Sessions at a time.
        max_results: Results of a session.
        max_queue: Jobs that wait or run; beyond it the answer is 503 with Retry-After.
        max_upload_mib: Size of an uploaded scan; unpacked, a zip may have twice as much.
        max_files: Files of an uploaded zip.
        max_voxels: Voxels of a scan.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads; null takes the default of `foundation.threads`.
        verbose: Log one line per request, without names of files or sessions.
    """

    pipeline: ModelSource = SHIPPED_PIPELINE
    paired: ModelSource | None = None
    folder: OutputFolder = Path("outputs/page")
    host: str = "127.0.0.1"
    port: int = 8020
    token: str | None = None
    open_browser: bool = True
    expiry_hours: float = 24.0
    max_sessions: int = 16
    max_results: int = 50
    max_queue: int = 8
    max_upload_mib: int = 1024
    max_files: int = 3000
    max_voxels: int = 2**28
    device: str = "auto"
    threads: int | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in ("max_sessions", "max_results", "max_queue", "max_upload_mib", "max_files", "max_voxels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}, expected at least 1")
        if not 0 < self.expiry_hours <= 24 * 365:
            raise ValueError(f"expiry_hours {self.expiry_hours:g}, expected more than 0, at most a year")


ARGUMENTS = read_arguments(PageConfig, __name__)

from autoencoder.service.server import bind, checked_token, is_loopback, serve
from diffusion.sampling.loading import SamplingConfig, load_pipeline
from evaluation.page.app import create_app
from evaluation.page.jobs import Jobs
from evaluation.page.painter import Painter, phantom_file
from evaluation.page.sessions import Sessions
from evaluation.page.uploads import UploadLimits

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def main(config: PageConfig) -> None:
    """Check, bind, load, serve."""
    token = checked_token(config.token, config.host)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("evaluation.page").setLevel(logging.INFO if config.verbose else logging.WARNING)
    listener = bind(config.host, config.port)
    size = config.max_upload_mib * 2**20
    limits = UploadLimits(size, config.max_files, 2 * size, config.max_voxels)
    sessions = Sessions(config.folder, config.max_sessions, 3600 * config.expiry_hours, config.max_results)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(phantom_file, sessions.root)  # beside the pipeline: both take seconds
        sampling = SamplingConfig(
            out=config.folder, pipeline=config.pipeline, paired=config.paired, device=config.device
        )
        pipeline, folder = load_pipeline(sampling)
    pipeline.set_progress_bar_config(disable=True)
    painter = Painter(pipeline, folder, config.pipeline, sessions, config.paired)
    jobs = Jobs(painter.run, config.max_queue)
    hosts = (*LOOPBACK, config.host) if is_loopback(config.host) else None
    app = create_app(painter, jobs, limits, token, hosts)

    listener.listen()  # whoever reads the next line may connect
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    print(f"serving the page at {url}{' (token required: append #token=TOKEN)' * bool(token)}", flush=True)
    if config.open_browser and is_loopback(config.host):
        webbrowser.open(f"{url}#token={token}" if token else url)
    serve(app, listener)


if __name__ == "__main__":
    launch(main, ARGUMENTS)
