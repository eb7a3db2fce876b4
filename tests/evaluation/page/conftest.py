"""The page's server with a tiny pipeline, which diffuses the voxels of the phantom themselves."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from running_app import serving
from tiny_models import pixel_pipeline

from diffusion.sampling.pipeline import LesionInpaintPipeline
from evaluation.page.app import create_app
from evaluation.page.jobs import Jobs
from evaluation.page.painter import Painter
from evaluation.page.sessions import Sessions
from evaluation.page.uploads import UploadLimits


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    pixel_pipeline(crop_size=16, spacing_mm=2.0, paint_margin_mm=2.0).save_pretrained(folder)
    return folder


Served = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="module")
def served(pipeline_folder) -> Served:
    """A function that serves the sessions of a folder; `painter` is what its last server has."""
    pipeline = LesionInpaintPipeline.from_pretrained(pipeline_folder)
    pipeline.set_progress_bar_config(disable=True)

    @contextmanager
    def serve(folder: Path, limits: UploadLimits | None = None, most: int = 16, **options: Any) -> Iterator[str]:
        sessions = Sessions(folder, most, options.pop("expiry_s", 3600), options.pop("most_results", 50))
        painter = Painter(pipeline, pipeline_folder, str(pipeline_folder), sessions)
        run = options.pop("run", painter.run)
        jobs = Jobs(run, options.pop("most_jobs", 8), options.pop("most_of_session", 4))
        with serving(create_app(painter, jobs, limits, **options)) as url:
            yield url

    return serve
