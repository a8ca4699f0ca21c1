"""Folder -> masks: reading, computing and writing overlap; one bad file never stops the rest."""

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
    pace: StageTimes,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome | None]:
    """Write the masks, and yield what became of each image, about in the order of the jobs; and None whenever something
    has advanced without being finished.

    Images are read ahead in threads, go through the network a batch at a time, and are written in threads while the
    network computes the next ones. A job that fails leaves no mask, not even one of an earlier run. pace: is told
    where the time goes. stopping: where it says so, no further image is begun, and one that the next call can go on
    with is left.
    """
    in_flight = _in_flight(predictor)
    opened = prefetch(partial(_open, predictor, config, stopping), _until(stopping, jobs), config.workers, in_flight)
    finished = through_network(predictor, opened, pace)
    return prefetch(_write, finished, config.workers, in_flight)


def _until(stopping: Callable[[], bool], jobs: Iterable[Job]) -> Iterator[Job]:
    for job in jobs:
        if stopping():
            return
        yield job


def _open(predictor: Predictor, config: PredictConfig, stopping: Callable[[], bool], job: Job) -> Sheet | Outcome:
    """Read the image, or for tiles what its header says."""
    try:
        with memory_explained():
            sheet = Sheet(predictor, config, job, _picture(predictor, config, job), stopping)
            return sheet.finish() if sheet.is_complete else sheet
    except UserError as error:
        return failed(job, error)


def _picture(predictor: Predictor, config: PredictConfig, job: Job) -> Picture:
    def read(page: int) -> Picture:
        return predictor.read(job.page(page))

    return Stack(read, job.pages, config.workers, _in_flight(predictor)) if job.pages > 1 else read(0)


def _in_flight(predictor: Predictor) -> int | None:
    return 1 if predictor.mode == "tile" else None  # large images, and large rows of them


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
