"""The prediction pipeline, from files to masks: reading, computing and writing overlap; a bad file stops only
itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from unet_cli.config.prediction import PredictConfig
from unet_cli.errors import UserError, memory_explained
from unet_cli.inference.batching import through_network
from unet_cli.inference.jobs import Job, Outcome, failed
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.sheet import Sheet
from unet_cli.inference.views import Band, Picture, Stack
from unet_cli.system.prefetch import prefetch
from unet_cli.system.stage_times import StageTimes


def predict_all(
    predictor: Predictor,
    config: PredictConfig,
    jobs: Iterable[Job],
    times: StageTimes,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome | None]:
    """Write the masks, and yield the outcome of each image, about in the order of the jobs, and None on any progress
    before that.

    Images are prefetched in threads, predicted in batches, and written in threads while the network computes the next
    ones. A job that fails leaves no mask, not even one of an earlier call. times: records the time of each stage.
    stopping: once it returns True, no further image is started, and images that the next call can resume are left
    unfinished.
    """
    in_flight = _in_flight(predictor)
    # Three stages, each bounded by `in_flight`: memory doesn't grow with the number of files.
    opened = prefetch(partial(_open, predictor, config, stopping), _until(stopping, jobs), config.workers, in_flight)
    finished = through_network(predictor, opened, times)
    return prefetch(_write, finished, config.workers, in_flight)


def _until(stopping: Callable[[], bool], jobs: Iterable[Job]) -> Iterator[Job]:
    for job in jobs:
        if stopping():
            return
        yield job


def _open(predictor: Predictor, config: PredictConfig, stopping: Callable[[], bool], job: Job) -> Sheet | Outcome:
    """Read the image, or for tiles only its header."""
    if job.error is not None:
        return failed(job, job.error)
    try:
        with memory_explained():
            sheet = Sheet(predictor, config, job, _picture(predictor, config, job), stopping)
            return sheet.finish() if sheet.is_complete else sheet
    except UserError as error:
        return failed(job, error)


def _picture(predictor: Predictor, config: PredictConfig, job: Job) -> Picture:
    def read(page: int) -> Picture:
        return predictor.read(job.page(page))

    if predictor.preprocessing.is_volumetric:
        return predictor.read(job.image)
    return Stack(read, job.pages, config.workers, _in_flight(predictor)) if job.pages > 1 else read(0)


def _in_flight(predictor: Predictor) -> int | None:
    """Number of images that are prefetched, and of results that are written; None for the default."""
    return 1 if predictor.mode == "tile" else None  # images in tiles may be large, and so may be their rows


def _write(item: tuple[Sheet, Band | UserError] | Outcome) -> Outcome | None:
    if isinstance(item, Outcome):
        return item
    sheet, rows = item
    if isinstance(rows, UserError):
        return sheet.fail(rows, keep=False)
    try:
        with memory_explained():
            return sheet.add(rows)
    except UserError as error:
        return sheet.fail(error)
