"""The floors of the architecture: an import only goes down, rooms of one floor don't see each other, no circles."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rmeeto_bench"
FLOORS = {
    "errors": 0, "profiles": 0, "records": 0, "_version": 0, "version": 0, "files": 0, "children": 0, "watchdog": 0,
    "cpus": 0, "published": 0, "validate": 0,
    "reduction": 1, "kernels": 1,
    "checkpoints": 2, "measure": 2,
    "models": 3, "data": 3,
    "cost": 4, "retrain": 4,
    "bench": 5,
    "compare": 6, "ablate": 6,
    "report": 7, "fleet": 7,
    "api": 8, "cli": 8, "__init__": 9, "__main__": 9,
}  # fmt: skip
# What is allowed beside going down: floor 0 is one room, and the package's own name carries only its version.
EXCEPTIONS = {
    ("models.timm_models", "data.image_set"): "timm wants the normalisation a model was trained with",
}
REPORT_MAY = (
    "errors", "records", "profiles", "files", "published", "reduction.config", "reduction.schedule", "report",
    "measure.protocol", "measure.statistics", "measure.verdict", "models.sizes",
)  # fmt: skip


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in ROOT.rglob("*.py")
    }


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module below rmeeto_bench, whether only for type checking)."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    typing_only = {
        id(node)
        for block in nodes
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in nodes:
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


def test_imports_go_down() -> None:
    between = {(source, target) for source, target in EDGES if room(source) != room(target)} - set(EXCEPTIONS)
    up = [
        f"{source} must not import {target}"
        for source, target in sorted(between)
        if not (floor(target) < floor(source) or floor(source) >= 8 or floor(source) == floor(target) == 0)
    ]
    assert not up


@pytest.mark.parametrize("page", sorted(ROOT.glob("*/README.md")), ids=lambda page: page.parent.name)
def test_a_room_says_what_lives_in_it_and_what_it_must_not_import(page: Path) -> None:
    text, here = page.read_text(encoding="utf-8"), page.parent.name
    assert text.startswith(f"# {here}\n")
    assert text.count("\n") <= 15
    words, never = text.split("Must not import: ")
    for name in re.findall(r"`([a-z_]+(?:/|\.py))`", words):
        assert (page.parent / name).exists() or list(page.parent.glob(f"*/{name}")), f"{here} has no {name}"
    above = {room for room in FLOORS if (ROOT / room).is_dir() and room != here and FLOORS[room] >= FLOORS[here]}
    assert set(re.findall(r"`(\w+)`", never)) == above
    for link in re.findall(r"(?:docs|benchmarks)/[\w./-]+\.(?:md|py)", words):
        assert (ROOT.parent / link).is_file(), link


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
    "code",
    [
        "import rmeeto_bench.report.run.files, rmeeto_bench.bench.run.runner, rmeeto_bench.bench.session.jobs",
        "from rmeeto_bench.cli.main import main; main(['profiles'])",
    ],
)
def test_light_things_load_no_torch(code: str) -> None:
    check = f"import sys; {code}; assert not {{'torch', 'timm', 'scipy.stats'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)


def test_a_simulated_run_loads_no_torch(tmp_path: Path) -> None:
    """Neither the command nor its workers: that was seconds of processor time in each process of a run on no GPU at all."""
    (tmp_path / "none" / "torch").mkdir(parents=True)
    (tmp_path / "none" / "torch" / "__init__.py").write_text("raise ImportError('a simulated run needs no torch')")
    words = "--device sim --gpus v100 --model vim_tiny --r 0,11 --quick --batch-size sweep --energy --paper-mode --out run"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "none")}
    subprocess.run([sys.executable, "-m", "rmeeto_bench", *words.split()], check=True, cwd=tmp_path, env=environment)


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


def uncommented(text: str) -> list[str]:
    """Class.field of every dataclass field without a comment, either on its line or on the line above."""
    lines, found = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ClassDef) or not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            continue
        for field in (statement for statement in node.body if isinstance(statement, ast.AnnAssign)):
            beside = b"#" in lines[(field.end_lineno or 0) - 1].encode()[field.end_col_offset :]
            if not beside and not lines[field.lineno - 2].lstrip().startswith("#"):
                found.append(f"{node.name}.{ast.unparse(field.target)}")
    return found


def test_every_dataclass_field_has_a_comment() -> None:
    sample = "@dataclass\nclass A:\n    a: int  # one\n    # two\n    b: int\n    c: str = '#'\n    d: int = 0\n"
    assert uncommented(sample) == ["A.c", "A.d"]
    for name, path in MODULES.items():
        assert uncommented(path.read_text(encoding="utf-8")) == [], name


def test_a_worker_starts_without_what_it_does_not_need() -> None:
    """torchvision and scipy.stats took twice as long to import as torch: every session of every run paid for them."""
    code = (
        "import sys, torch, rmeeto_bench as rb, rmeeto_bench.bench.session.jobs, rmeeto_bench.bench.session.accuracy_pass; "
        "from rmeeto_bench.models.zoo import build; from rmeeto_bench.models.sizes import config; "
        "torch.device('meta').__enter__(); build(config('vim_nano'), rb.ReductionConfig()); "  # as the plan of a run does
        "torch.set_default_device('cpu'); model = rb.create_model('vim_nano', r=5, depth=2).eval(); "
        "torch.inference_mode()(model)(torch.zeros(1, *model.config.input_shape)); "
        "slow = {'torchvision', 'scipy.stats', 'matplotlib', 'timm', 'pandas', 'torch._dynamo', 'huggingface_hub', 'triton'}; "
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_name_means_one_thing() -> None:
    """A public class has a name of its own in the whole package, and is not called as one of typing's."""
    found: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name)
    assert not {name: places for name, places in found.items() if len(places) > 1 or name in typing.__all__}


def _named(node: ast.AST) -> str:
    """The name that a piece of code takes from elsewhere; entry points are named in strings."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return getattr(node, {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}.get(type(node), ""), "")


def test_nothing_is_there_for_tests_alone() -> None:
    """Every function and class of a module is named by other code of the package, or is offered to users."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in MODULES.values()]
    named = {_named(node) for tree in trees for node in ast.walk(tree)}
    kinds = (ast.FunctionDef, ast.ClassDef)
    defined = [node for tree in trees for node in tree.body if isinstance(node, kinds) and not node.decorator_list]
    assert [node.name for node in defined if node.name not in named and not node.name.startswith("__")] == []


def test_modules_that_a_text_names_exist() -> None:
    """`room.module` and `room.module.Name` in docstrings and comments; files of a run are no modules."""
    rooms = {room(name) for name in MODULES if "." in name}
    for path in MODULES.values():
        for name in re.findall(r"`((?:[a-z_]+\.)+\w+)`", path.read_text(encoding="utf-8")):
            if room(name) in rooms:
                module = next((known for known in (name, name.rpartition(".")[0]) if known in MODULES), None)
                assert module is not None, f"{path}: there is no {name}"
                last = name.rpartition(".")[2]
                assert name == module or re.search(rf"\b{last}\b", MODULES[module].read_text(encoding="utf-8")), name


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports them by their names: the second of two is not run, and only a run of all tests says so."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
