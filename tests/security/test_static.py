"""What the source never does: unpickle, evaluate, hand a string to a shell, unpack an archive by its own paths."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("rmeeto_bench", "docker", "locks", ".ci") for path in (ROOT / folder).rglob("*.py"))
FORBIDDEN = {
    "eval": "evaluates text",
    "exec": "executes text",
    "os.system": "is a shell",
    "os.popen": "is a shell",
    "subprocess.getoutput": "is a shell",
    "pickle.load": "unpickles",
    "pickle.loads": "unpickles",
    "marshal.loads": "unpickles",
    "shelve.open": "unpickles",
    "yaml.load": "builds objects",
    "torch.jit.load": "executes a stranger's program",
    "numpy.load": "may unpickle",
    "np.load": "may unpickle",
    "pd.read_pickle": "unpickles",
    "joblib.load": "unpickles",
    "tempfile.mktemp": "names a file that another may make first",
    "shutil.unpack_archive": "writes where the archive says",
}
TRUSTED = {("rmeeto_bench/data/readers.py", "pickle.loads")}  # its own forked children, over a socket pair without a name
PROCESSES = ("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output")


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def check(path: Path) -> None:
    for name, node in calls(path):
        where = f"{path.name}:{node.lineno} {name}"
        if path.is_relative_to(ROOT) and (path.relative_to(ROOT).as_posix(), name) in TRUSTED:
            continue
        assert name not in FORBIDDEN, f"{where} {FORBIDDEN.get(name)}"
        assert not name.endswith(("extractall", ".extract")), f"{where} writes where the archive says"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert keywords.get("shell", "False") == "False", f"{where} is a shell"
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", f"{where} unpickles"
        if name.endswith("add_safe_globals"):
            raise AssertionError(f"{where} widens what may be unpickled for the whole process")
        if name in PROCESSES:
            assert not isinstance(node.args[0], (ast.Constant, ast.JoinedStr)), f"{where}: give a list of words"


def test_nothing_dangerous_is_called() -> None:
    assert len(SOURCES) > 200
    for path in SOURCES:
        check(path)


@pytest.mark.parametrize("line", ["eval('1')", "run('ls', shell=True)", "torch.load(p)", "tar.extractall()", "os.system('x')"])
def test_the_check_sees_what_it_should(line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(line)
    with pytest.raises(AssertionError):
        check(tmp_path / "bad.py")
