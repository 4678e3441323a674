"""What strangers install: the wheel outside a checkout, the Dockerfile, the lock files, the release workflow."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from programs import BRIEF

import rmeeto_bench
from rmeeto_bench.kernels.native import compiling
from rmeeto_bench.kernels.native import library as loader
from rmeeto_bench.kernels.registry import sample_arguments
from rmeeto_bench.kernels.selective_scan import native, reference
from rmeeto_bench.records.run import load

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def run(*words: object, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, from a copy of the sources without git."""
    for needed in ("build", "hatchling", "hatch_vcs"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install -e '.[test]'")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__", "_version.py")
    for name in ("rmeeto_bench", "profiles", "results/paper"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    left = source / "rmeeto_bench" / "kernels" / "native" / "shipped" / "left_from_before.so"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"compiled by hand")
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, source)
    with tarfile.open(next(iter(out.glob("*.tar.gz")))) as archive:
        archive.extractall(out, filter="data")
    (unpacked,) = (path for path in out.iterdir() if path.is_dir())
    return unpacked


def wheel_of(sdist: Path, out: Path, **variables: str) -> tuple[Path, str]:
    """The wheel built from the unpacked source distribution, and what the build said."""
    line = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, sdist)
    done = run(*line, env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables})
    (found,) = out.glob("*.whl")
    return found, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with the compiled kernels of this machine, as releases have it."""
    if not compiling.compilers()[0]:
        pytest.skip("no C++ compiler: apt install g++")
    return wheel_of(sdist, tmp_path_factory.mktemp("dist"), RMEETO_BENCH_WHEEL_KERNELS="require")[0]


@pytest.fixture(scope="module")
def plain_wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip makes of the source distribution on a machine without a compiler."""
    empty = tmp_path_factory.mktemp("empty")
    found, said = wheel_of(sdist, tmp_path_factory.mktemp("plain"), PATH=str(empty))
    assert "this wheel has no compiled CPU kernels: no C++ compiler was found" in said
    return found


def test_compiled_files_are_in_the_wheel_of_this_platform_and_nowhere_else(sdist: Path, wheel: Path, plain_wheel: Path) -> None:
    assert not [path for path in sdist.rglob("*") if path.suffix in (".so", ".sha256")]
    assert wheel.name.startswith("rmeeto_bench-0.1.0-py3-none-linux_")  # no git, no tags: the fallback version
    assert plain_wheel.name == "rmeeto_bench-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(plain_wheel) as archive:
        assert "shipped" not in " ".join(archive.namelist())
    with zipfile.ZipFile(wheel) as archive:
        shipped = [Path(name).name for name in archive.namelist() if "/shipped/" in name]
        (root,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert "Root-Is-Purelib: false" in archive.read(root).decode()
    wanted = [compiling.file_name(isa) for isa in compiling.instruction_sets()]
    assert sorted(shipped) == sorted([*wanted, *(name.replace(".so", ".sha256") for name in wanted)])


def test_the_library_in_the_wheel_is_the_one_that_is_loaded(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if "/shipped/" in name])
    shipped = tmp_path / "rmeeto_bench" / "kernels" / "native" / "shipped"
    monkeypatch.setattr(loader, "SHIPPED", shipped)
    monkeypatch.setattr(loader, "compilers", lambda: pytest.fail("a compiler was looked for"))
    for isa in loader._processor_sets():
        found = loader.find([isa])
        assert (found.isa, found.source) == (isa, "shipped in the package")
        assert found.dll._name == str(shipped / compiling.file_name(isa))
        monkeypatch.setattr(loader, "_chosen", [found])
        arguments = sample_arguments("cpu", 16)
        assert torch.allclose(native.selective_scan(arguments), reference.selective_scan(arguments), atol=1e-4)


def test_the_wheel_carries_what_the_tool_needs_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "rmeeto_bench/_profiles/v100.toml",
        "rmeeto_bench/_paper/all_tables.csv",
        "rmeeto_bench/_version.py",
        "rmeeto_bench/bundled/vim_nano/vim_nano_r11.safetensors",
        "rmeeto_bench/bundled/fashion_mnist/LICENSE",
        "rmeeto_bench/report/run/template.html",
    ):
        assert needed in names, needed
    assert [name for name in names if name.endswith(".cpp")] == [
        f"rmeeto_bench/{path.relative_to(ROOT / 'rmeeto_bench')}" for path in sorted((ROOT / "rmeeto_bench").rglob("*.cpp"))
    ]
    assert not [name for name in names if name.startswith(("tests", "results", "benchmarks")) or "__pycache__" in name]
    assert not [name for name in names if name.endswith("README.md")], "pages for those who change the sources"
    assert wheel.stat().st_size < 15 << 20


@pytest.fixture(scope="module")
def clean_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment that borrows the dependencies of this one, so that nothing but a wheel is installed."""
    folder = tmp_path_factory.mktemp("clean")
    home = folder / "venv"
    venv.create(home, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    borrowed = folder / "borrowed"  # everything of this environment but the package itself
    borrowed.mkdir()
    for path in dict.fromkeys(entry for entry in sys.path if "site-packages" in entry):
        for entry in Path(path).iterdir():
            if not entry.name.startswith(("rmeeto_bench", "_editable_impl_rmeeto")) and entry.suffix != ".pth":
                link = borrowed / entry.name
                if not link.exists():
                    link.symlink_to(entry)
    (site / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    return home


def install(home: Path, wheel: Path) -> None:
    line = ("install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    run(sys.executable, "-m", "pip", "--python", home / "bin" / "python", *line)
    (protocol,) = home.glob("lib/*/site-packages/rmeeto_bench/measure/protocol.py")
    protocol.write_text(protocol.read_text(encoding="utf-8") + BRIEF, encoding="utf-8")


MAIN_COMMAND = ("--gpus", "none", "--quick", "--images", "16", "--batch-size", "4", "--out", "result")


@pytest.mark.slow
def test_the_installed_wheel_runs_the_main_command_without_a_compiler(wheel: Path, clean_venv: Path, tmp_path: Path) -> None:
    install(clean_venv, wheel)
    tool = clean_venv / "bin" / "rmeeto-bench"
    options = {"cwd": tmp_path, "env": {"PATH": f"{clean_venv}/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}}
    assert run(tool, "--version", **options).stdout.strip() == "rmeeto-bench 0.1.0"
    assert "RTX 4090" in run(tool, "profiles", **options).stdout
    done = run(tool, *MAIN_COMMAND, "--r", "0,20", **options)
    assert "speed-up" in done.stdout
    kernels = f"{loader._processor_sets()[0]}, shipped"
    assert f"vim_nano runs on native kernels ({kernels})" in " ".join(done.stderr.split())
    record = load(tmp_path / "result")
    assert [arm.weights for arm in record.arms] == ["baseline", "retrained"]
    assert record.tool_version == "0.1.0"
    assert record.environment["git_commit"] is None
    assert record.environment["cpu_kernels"] == kernels


@pytest.mark.slow
def test_without_compiled_kernels_and_compiler_the_run_is_on_the_fallback_and_says_so(
    plain_wheel: Path, clean_venv: Path, tmp_path: Path
) -> None:
    install(clean_venv, plain_wheel)
    options = {"cwd": tmp_path, "env": {"PATH": f"{clean_venv}/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}}
    done = run(clean_venv / "bin" / "rmeeto-bench", *MAIN_COMMAND, "--r", "0", "--checkpoints", "none", **options)
    said = " ".join(done.stderr.split())
    assert "vim_nano runs on stepwise kernels; not on native: the fast CPU kernels are neither shipped nor built" in said
    assert "install g++" in said
    record = load(tmp_path / "result")
    assert record.environment["cpu_kernels"] is None
    assert [arm.backend for arm in record.arms] == ["stepwise"]


def test_the_version_comes_from_the_tags_and_is_there_without_any() -> None:
    assert re.match(r"\d+\.\d+", rmeeto_bench.__version__)
    assert PROJECT["project"]["dynamic"] == ["version"]
    options = PROJECT["tool"]["hatch"]["version"]
    assert options["source"] == "vcs"
    assert re.fullmatch(r"\d+\.\d+\.\d+", options["fallback-version"])
    pattern = re.compile(options["raw-options"]["tag_regex"])
    match = pattern.match("v1.2.3rc1")
    assert match["version"] == "1.2.3rc1"
    assert pattern.match("paper-1.0") is None


def test_the_extras_that_are_documented_exist() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert {"mamba-ssm", "fleet", "report", "test"} <= set(extras)
    assert any(line.startswith("ray") for line in extras["fleet"])
    assert any(line.startswith("submitit") for line in extras["fleet"])


# ---- containers

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
steps = module_of(ROOT / ".ci" / "container_steps.py")
STAGES = steps.parse(DOCKERFILE)
IMAGES = ("cpu", "cuda13", "cuda126", "cuda13-mamba", "cuda126-mamba", "default")


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not hadolint.is_file():
        pytest.skip("hadolint is not installed: pip install -e '.[release]'")
    run(hadolint, "--failure-threshold", "warning", ROOT / "Dockerfile")


@pytest.mark.parametrize("name", IMAGES)
def test_every_image_runs_as_a_user_and_starts_the_tool(name: str) -> None:
    instructions = [step for stage in steps.lineage(STAGES, name) for step in stage.steps]
    users = [rest for word, rest in instructions if word == "USER"]
    assert users[-1] == "1000"
    assert ("ENTRYPOINT", '["rmeeto-bench"]') in instructions
    labels = " ".join(rest for word, rest in instructions if word == "LABEL")
    assert all(f"org.opencontainers.image.{label}" in labels for label in ("title", "licenses", "version", "description"))


@pytest.mark.parametrize("name", STAGES)
def test_what_is_installed_is_pinned_and_nothing_is_left_behind(name: str) -> None:
    for word, rest in STAGES[name].steps:
        assert word not in ("ADD", "MAINTAINER")
        if word == "COPY" and "--from" not in rest:
            assert not rest.startswith(". "), "only named files go into an image"
        if word != "RUN":
            continue
        assert "curl" not in rest
        assert "sudo" not in rest
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        for part in rest.split("&&"):
            if re.search(r"pip (install|wheel)", part) and "--no-index" not in part and "cpu-torch.txt" not in part:
                assert "--require-hashes" in part, part


def test_files_that_are_copied_exist_and_reach_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for stage in STAGES.values():
        for word, rest in stage.steps:
            if word == "COPY" and "--from" not in rest:
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert any(source == line[1:] or source.startswith(line[1:] + "/") for line in ignored if line[0] == "!"), (
                        source
                    )


@pytest.mark.parametrize("path", sorted((ROOT / "locks").glob("*.txt")), ids=lambda path: path.name)
def test_locks_are_exact_and_name_no_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "http" not in re.sub(r"^\S*http\S*==.*$", "", text, flags=re.MULTILINE)
    assert "--index" not in text
    for block in re.findall(r"^\S.*(?:\n    .*)*", text, flags=re.MULTILINE):
        assert "==" in block.splitlines()[0], block
        assert path.name == "cpu-torch.txt" or "--hash=sha256:" in block, block


def test_locks_satisfy_the_project() -> None:
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    for name in ("cuda13.txt", "cuda126.txt", "cpu.txt"):
        text = (ROOT / "locks" / name).read_text(encoding="utf-8")
        if name == "cpu.txt":
            text += (ROOT / "locks" / "cpu-torch.txt").read_text(encoding="utf-8")
            assert not re.search(r"^(nvidia-(?!ml-py)|triton)", text, flags=re.MULTILINE)
        pins = {
            match[1].lower().replace("_", "-"): match[2] for match in re.finditer(r"^([\w.-]+)==([\w.+]+)", text, re.MULTILINE)
        }
        for requirement in wanted:
            pinned = pins[requirement.name.lower().replace("_", "-")]
            assert requirement.specifier.contains(pinned), (name, str(requirement), pinned)


nvcc = module_of(ROOT / "docker" / "nvcc_archs.py")


def test_nvcc_is_given_the_chosen_architectures() -> None:
    given = "-g -gencode arch=compute_53,code=sm_53 -gencode=arch=compute_62,code=sm_62 -c x.cu -arch=sm_70"
    wanted = "-g -c x.cu -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90"
    assert nvcc.rewrite(given.split(), ["80", "90"]) == [*wanted.split(), "-gencode", "arch=compute_90,code=compute_90"]
    assert nvcc.rewrite(["-V"], ["80"]) == ["-V"]
    for wrong in ([], ["80;rm"], ["sm_80"]):
        with pytest.raises(SystemExit, match="NVCC_ARCHS"):
            nvcc.rewrite(["-c"], wrong)


@pytest.mark.slow
def test_the_steps_of_the_cpu_image_work_in_a_clean_environment() -> None:
    for needed in ("build", "hatchling", "hatch_vcs"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install -e '.[test]'")
    without = os.environ | {"RMEETO_BENCH_WHEEL_KERNELS": "none"}  # compiled once in this suite, above
    done = run(sys.executable, ROOT / ".ci" / "container_steps.py", "cpu", "--borrow", env=without)
    assert done.stdout.splitlines()[-1] == "rmeeto-bench 0.1.0"


# ---- release


def test_the_release_workflow_publishes_with_a_token_of_the_moment_only() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    flow = yaml.safe_load(text)
    assert flow[True]["push"]["tags"] == ["v*"]  # YAML reads the key `on` as true
    assert flow["permissions"] == {"contents": "read"}
    publish = flow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert set(publish["needs"]) == {"sdist", "build", "test"}
    assert flow["jobs"]["build"]["needs"] == "sdist"
    assert publish["environment"]["name"] == "pypi"
    assert "secrets." not in text
    for job in flow["jobs"].values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w./-]+@(v\d+(\.\d+)*|release/v\d+|[0-9a-f]{40})", step["uses"]), step["uses"]


def test_citation_and_changelog_are_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors", "license", "type"} <= set(citation)
    assert any("2412.12496" in str(reference) for reference in citation["references"])
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changes


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_issue_templates_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert "blank_issues_enabled" in form
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"] if "id" in part]
    assert len(set(ids)) == len(ids) > 0
