"""How the package is laid out: a room imports from itself and from rooms in lower rows, never upward or sideways; and
no file is long."""

from __future__ import annotations

import ast
from itertools import chain
from pathlib import Path

import unet_cli

PACKAGE = Path(unet_cli.__file__).parent
ROWS = [  # rooms that share a row don't import each other
    ["__main__"], ["cli"], ["__init__"], ["runs", "export"], ["report"], ["evaluation"], ["training", "inference"],
    ["run_folder"], ["checkpoint"], ["foreign", "exported"], ["models", "data", "metrics"], ["system"], ["config"],
    ["errors", "version"],
]  # fmt: skip
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}
LONGEST = 350  # lines of a file
LIGHT = ["cli", "config", "errors", "version", "__init__", "__main__"]  # what --help and shell completion load


def imports(path: Path, *kinds: type[ast.AST]) -> set[str]:
    """Names of the modules that a file imports, anywhere or in nodes of these kinds alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(chain.from_iterable(ast.walk(node) for node in tree.body if not kinds or isinstance(node, kinds)))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_no_room_imports_upward_or_sideways():
    for path in PACKAGE.rglob("*.py"):
        for module in imports(path):
            room, other = room_of(path), (module.split(".") + ["__init__"])[1]
            if module.split(".")[0] == "unet_cli" and other != room and module != "unet_cli":
                assert ROW_OF[other] > ROW_OF[room], f"{path} imports {module}"


def test_only_the_command_line_knows_typer():
    assert {room_of(path) for path in PACKAGE.rglob("*.py") if imports(path) & {"typer", "click", "rich"}} == {"cli"}


def test_help_loads_neither_torch_nor_numpy():
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) in LIGHT:
            assert not imports(path, ast.Import, ast.ImportFrom) & {"torch", "numpy", "PIL"}, path


def test_no_file_needs_a_table_of_contents():
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}
