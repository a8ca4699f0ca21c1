"""What is written of the objects of each mask: polygons beside it, and records of which one file of the job is made.

A file of the whole job (COCO, a table) is put together at the end of a call from a record for each image, which lie in
a hidden folder of the output: a call that continues a stopped one finds those of the images that were finished. Calls
for different shards write different files; one without --shard, and with --skip-existing, joins all.
"""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_cli.config.prediction import PredictConfig
from unet_cli.data.export import coco, roi, yolo
from unet_cli.data.labels import LabelMap
from unet_cli.data.measure import columns_of
from unet_cli.errors import UserError, explain
from unet_cli.system.files import whole_file, writable_folder, write_bytes

if TYPE_CHECKING:
    from unet_cli.inference.jobs import Job

FOLDER = ".unet-objects"  # in the output
EXTENSIONS = {"geojson": ".geojson", "labelme": ".json", "yolo": ".txt", "roi": ".zip"}  # beside each mask
COCO, TABLE = ".coco.json", ".table.json"  # records
FIRST_COLUMNS = ("image", "page")
BEGINNING = 400  # bytes in which a file says that it is ours


def check_records(config: PredictConfig) -> None:
    """Raises UserError for settings that ask for what can't be written."""
    if config.polygons == "roi":
        roi.check_roi()
    if config.table is not None:
        folder = writable_folder(config.table.parent)
        table = joint_file(config, folder, TABLE)
        assert table is not None
        if table.exists() and not _is_our_table(table):
            raise UserError(f"{table} already exists and was not written by unet: choose another --table")


def record_files(config: PredictConfig, mask: Path, names: Sequence[str], output: Path) -> tuple[Path, ...]:
    """The files to write for an image. mask: its file; names: of the pages, the mask's own where there is one."""
    found = []
    if config.polygons in EXTENSIONS:
        found += [mask.with_name(name + EXTENSIONS[config.polygons]) for name in names]
    if config.polygons == "coco":
        found.append(_record(mask, output, COCO))
    if config.table is not None:
        found.append(_record(mask, output, TABLE))
    return tuple(found)


def stale_records(job: Job) -> list[Path]:
    """The files of an earlier call for this image, whatever its settings were."""
    beside = [job.mask.with_name(name + end) for name in job.page_names for end in EXTENSIONS.values()]
    records = [_record(job.mask, job.output, end) for end in (COCO, TABLE)]
    # os.path.exists: a name that is too long is no file of ours either.
    return [path for path in (*beside, *records) if os.path.exists(path) and is_our_record(path)]


def _record(mask: Path, output: Path, end: str) -> Path:
    place = mask.relative_to(output)
    return output / FOLDER / place.with_name(place.name + end)


def is_our_record(path: Path) -> bool:
    """Whether unet wrote this file of polygons, so that it may be overwritten."""
    if FOLDER in path.parts:
        return True
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.comment == roi.SIGNATURE
        if path.suffix == ".txt":  # which can't say so: that of the same folder of labels does
            return any(_begins(folder / "data.yaml", yolo.SIGNATURE) for folder in path.parents)
        return _begins(path, '"generator": "unet"') or _begins(path, coco.GENERATOR["description"])
    except (OSError, zipfile.BadZipFile):
        return False


def _begins(path: Path, words: str) -> bool:
    """Whether a file says this at its beginning."""
    try:
        with open(path, "rb") as file:
            return words.encode() in file.read(BEGINNING)
    except OSError:
        return False


def _is_our_table(path: Path) -> bool:
    return _begins(path, "class,number,score") or (path.is_file() and not path.stat().st_size)


def write_record(path: Path, value: Any) -> None:
    write_bytes(path, json.dumps(value, ensure_ascii=False).encode())


# --- files of the whole job ------------------------------------------------------------------------------------------


def joint_file(config: PredictConfig, output: Path, end: str) -> Path | None:
    """The one file that is made of records, None where none is asked for. end: COCO or TABLE."""
    shard = f"-{config.shard[0]}-of-{config.shard[1]}" if config.shard else ""
    if end == COCO:
        return output / f"instances{shard}.json" if config.polygons == "coco" else None
    return None if config.table is None else config.table.with_name(f"{config.table.stem}{shard}.csv")


def begin_records(config: PredictConfig, output: Path, labels: LabelMap) -> None:
    """Remove the files of earlier calls that would look like those of this one, and write what is there once. Raises
    UserError where another's file is in the way."""
    instances, table = joint_file(config, output, COCO), joint_file(config, output, TABLE)
    for path in (instances, table):
        if path is not None and path.exists():
            if path == instances and not is_our_record(path):
                raise UserError(f"{path} already exists and was not written by unet: choose another --output")
            try:
                path.unlink()
            except OSError as error:
                raise explain(error, path) from error
    if config.polygons == "yolo":
        yaml = output / "data.yaml"
        if yaml.exists() and not _begins(yaml, yolo.SIGNATURE):
            raise UserError(f"{yaml} already exists and was not written by unet: choose another --output")
        write_bytes(yaml, yolo.data_yaml(labels.names, {}))
        write_bytes(output / "classes.txt", yolo.classes_txt(labels.names))


def join_records(config: PredictConfig, output: Path, everything: Sequence[Job], labels: LabelMap) -> list[str]:
    """Write the files of the whole job, or of its shard, of the records that are there, and say so. everything: the
    jobs of all shards, by which images are numbered. Raises UserError."""
    number_of = {job.mask: number for number, job in enumerate(everything, 1)}
    shard, count = config.shard or (1, 1)
    jobs = everything[shard - 1 :: count]
    said = []
    if config.polygons in EXTENSIONS:
        said.append(f"polygons beside the masks, as NAME{EXTENSIONS[config.polygons]}")
    instances, table = joint_file(config, output, COCO), joint_file(config, output, TABLE)
    if instances is not None:
        most = max((job.pages for job in everything), default=1)
        entries = (
            ((number_of[job.mask] - 1) * most + page, entry)
            for job in jobs
            for page, entry in enumerate(_read(_record(job.mask, output, COCO)), 1)
        )
        with whole_file(instances) as file:
            file.writelines(coco.whole(entries, labels.names))
        said.append(f"polygons of all images: {instances}")
    if table is not None:
        rows = [row for job in jobs for row in _read(_record(job.mask, output, TABLE))]
        _write_table(table, rows)
        said.append(f"table of {len(rows):,} objects: {table}")
    return said


def _read(path: Path) -> Iterator[Any]:
    """The parts of a record; none where it isn't there, since its image failed. Raises UserError."""
    try:
        yield from json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain(error, path) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: remove it, and call again with --skip-existing") from error


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    columns = [column for column in columns_of(rows) if column not in FIRST_COLUMNS] or ["class", "number", "score"]
    first = [column for column in FIRST_COLUMNS if column != "page" or any("page" in row for row in rows)]
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.DictWriter(text, [*first, *columns], restval="")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()
