"""Tables in CSV, whatever the length of their fields."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from unet_cli.errors import UserError

MAX_FIELD = 2**31 - 1  # characters: an outline of a million points is one field


def table(content: bytes) -> tuple[list[str], Iterator[list[str]]]:
    """The names in the first line, '#' before these left out, and the other lines, each with as many fields. Raises
    UserError at a damaged table, when its line is reached."""
    csv.field_size_limit(MAX_FIELD)
    lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    names = [name.strip().removeprefix("#") for name in next(lines, [])]

    def rows() -> Iterator[list[str]]:
        try:
            for row in lines:
                if row and len(row) != len(names):
                    raise UserError(f"has {len(row)} fields in line {lines.line_num}, and names of {len(names)}")
                if row:
                    yield row
        except csv.Error as error:
            raise UserError(f"is damaged in line {lines.line_num}: {error}") from error

    return names, rows()
