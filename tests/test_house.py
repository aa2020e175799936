"""The house: rooms know only what is below them, and nothing private of each other."""

import ast
from pathlib import Path

import main

CODE = Path(main.__file__).parent
ROOMS = (
    *("main", "verbs", "study", "Model", "Network", "training", "runs", "ImageUtils"),
    *("DataLoader", "sources", "machine", "Configure"),
)
MODULES = sorted(CODE.rglob("*.py"))


def imports(path):
    """Module, imported name (or None) and line of each import of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name, node.lineno) for alias in node.names)


def room_of(path):
    return path.relative_to(CODE).parts[0].removesuffix(".py")


def test_every_module_has_a_room():
    assert {room_of(path) for path in MODULES} <= set(ROOMS)


def test_imports_run_one_way():
    wrong = [
        f"{path.relative_to(CODE)}:{line} imports {module}"
        for path in MODULES
        for module, _, line in imports(path)
        if (room := module.split(".")[0]) in ROOMS
        and ROOMS.index(room) < ROOMS.index(room_of(path))
    ]
    assert wrong == []


def test_no_module_uses_what_is_private_to_another():
    wrong = []
    for path in MODULES:
        modules = set()
        for module, name, line in imports(path):
            if module.split(".")[0] in ROOMS:
                modules.add((name or module).split(".")[-1])
                if (name or module).startswith("_"):
                    wrong.append(f"{path.relative_to(CODE)}:{line} imports {name}")
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                wrong.append(f"{path.relative_to(CODE)}:{node.lineno} uses {node.attr}")
    assert wrong == []


def test_rooms_of_data_and_configuration_know_no_tensorflow():
    wrong = [
        f"{path.relative_to(CODE)}:{line} imports {module}"
        for path in MODULES
        if room_of(path) in ("DataLoader", "sources", "Configure", "main")
        for module, _, line in imports(path)
        if module.split(".")[0] in ("tensorflow", "keras")
    ]
    assert wrong == []
