"""The floors of the architecture: an import only goes down, rooms of one floor don't see each other, no circles."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rmeeto_bench"
FLOORS = {
    "accuracy_records": 0, "comparisons": 0, "errors": 0, "profiles": 0, "records": 0, "_version": 0, "shipped": 0,
    "reference": 0, "typecheck": 0, "cell_id": 0,
    "reduction": 1, "kernels": 1,
    "checkpoints": 2, "measure": 2,
    "models": 3, "data": 3,
    "bench": 4, "retrain": 4,
    "report": 5, "fleet": 5,
    "api": 6, "cli": 6, "timm_hook": 6, "__init__": 7, "__main__": 7,
}  # fmt: skip
# What is allowed beside going down: floor 0 is one room, and the package's own name carries only its version.
EXCEPTIONS = {
    ("models.timm_models", "data.image_set"): "timm wants the normalisation a model was trained with",
}
REPORT_MAY = (
    "accuracy_records", "comparisons", "errors", "records", "profiles", "shipped", "reference", "reduction.schedule", "report",
    "measure.protocol", "measure.statistics", "measure.tradeoff", "measure.verdict",
)  # fmt: skip


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in ROOT.rglob("*.py")
    }


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module below rmeeto_bench, whether only for type checking)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rmeeto_bench"):
            base = node.module.removeprefix("rmeeto_bench").lstrip(".")
            children = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            names = [child if child in MODULES else base for child in children]
        elif isinstance(node, ast.Import):
            names = [a.name.removeprefix("rmeeto_bench.") for a in node.names if a.name.startswith("rmeeto_bench.")]
        found += [(name, id(node) in typing_only) for name in names if name]
    return found


MODULES = modules()
EDGES = [(name, target) for name, path in MODULES.items() for target, typing_only in imports(path) if not typing_only]


def floor(module: str) -> int:
    return FLOORS[module.split(".")[0] or "__init__"]


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize(("source", "target"), sorted(set(EDGES)))
def test_imports_go_down(source: str, target: str) -> None:
    if (source, target) in EXCEPTIONS or room(source) == room(target):
        return
    if floor(source) == floor(target) == 0:
        return
    assert floor(target) < floor(source) or floor(source) >= 6, f"{source} must not import {target}"


def test_reports_need_no_torch() -> None:
    for source, target in EDGES:
        if room(source) == "report":
            assert target.startswith(REPORT_MAY), f"{source} imports {target}"


def test_there_are_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for source, target in EDGES:
        graph.setdefault(source, set()).add(target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*path, module))
            done.add(module)

    for module in list(graph):
        visit(module, ())


@pytest.mark.parametrize(
    "code", ["import rmeeto_bench.report.files", "from rmeeto_bench.cli.main import main; main(['profiles'])"]
)
def test_light_things_load_no_torch(code: str) -> None:
    check = f"import sys; {code}; assert 'torch' not in sys.modules and 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rmeeto_bench.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'pandas', 'matplotlib', 'rich', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_house_rules_on_sizes() -> None:
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                kernel = any(ast.unparse(decorator).startswith("triton.jit") for decorator in node.decorator_list)
                assert node.end_lineno - node.lineno < (120 if kernel else 80), f"{name}.{node.name}"
                if not kernel:
                    assert node.returns is not None, f"{name}.{node.name} has no return type"
