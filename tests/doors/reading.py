"""The rows of commands that read what others wrote, or that only count and tell."""

from __future__ import annotations

import platform
import tarfile

from machines import crowded
from world import Done, Row, refused

RUNS = ("run", "fleet")
PACKED = ("run", "contribute")


def names_of_here(done: Done, archive: str) -> bool:
    """Whether any file of a packed run, its database included, holds a name of this machine or of this folder."""
    with tarfile.open(done.world.root / archive) as files:
        texts = [found.read() for member in files if (found := files.extractfile(member)) is not None]
    host = f'"{platform.node()}"'.encode()
    return any(str(done.world.root).encode() in text or host in text for text in texts)


SHOW = [
    Row(
        "ls",
        "ls .",
        {"folder": lambda d: all(d.says(rf"\b{name} .*complete") for name in ("a", "f", "m", "s3", "s4"))},
        needs=("run", "fleet", "merge", "rerun"),
    ),
    Row(
        "ls as a page",
        "ls . --gallery pages/runs.md",
        {  # `a` lies there packed, too, and counts once
            "--gallery": lambda d: (
                [f"](../{name})" in d.text("pages/runs.md") for name in ("f", "given.tar.gz", "a")] == [True, True, False]
            )
        },
        needs=("run", "fleet", "contribute"),
    ),
    Row(
        "contribute",
        "contribute a --out given.tar.gz",
        {
            "runs": lambda d: d.says("given.tar.gz: .* vim_nano, 2 arms, .*without names of its machine"),
            "--out": lambda d: not names_of_here(d, "given.tar.gz"),
        },
        needs=("run",),
    ),
    Row(
        "contribute with names",
        "contribute a --out named.tar.gz --keep-names",
        {"--keep-names": lambda d: names_of_here(d, "named.tar.gz") and d.says(", with names of its machine")},
        needs=("run",),
    ),
    Row(
        "contribute --check",
        "contribute given.tar.gz named.tar.gz --check",
        {"--check": lambda d: d.says("given.tar.gz: .*without names.*: good.* named.tar.gz: .*with names .*: good")},
        needs=("contribute", "contribute with names"),
    ),
    refused("contribute what was merged", "contribute m", "", "was merged from others", "merge"),
    refused("ls of none", "ls", "", "runs is no folder"),
    Row(
        "show",
        "show a --rounds --plan",
        {
            "run": lambda d: d.says(d.json("a/manifest.json")["run_id"]) and d.says("command: rmeeto-bench run --gpus none"),
            "--rounds": lambda d: d.says(
                r"ms per image \(place\) session round vim_nano/r0 vim_nano/r11 (dropped )?0 0 [\d.]+ \([01]\)"
            ),
            "--plan": lambda d: '"class_map"' in d.out and '"python"' in d.out,
        },
        needs=("run",),
    ),
    Row(
        "show packed",
        "show given.tar.gz --rounds",
        {"run": lambda d: d.says("files: given.tar.gz.*ms per image")},
        needs=PACKED,
    ),
    Row(
        "report packed",
        "report given.tar.gz",
        {"run": lambda d: d.text("given/table.csv") == d.text("a/table.csv") and d.says("files: given")},
        needs=PACKED,
    ),
    Row("show merged", "show m", {"run": lambda d: d.says("merged-") and d.says("chunked kernels")}, needs=("merge",)),
    Row("show a gate's", "show g/head-2 --rounds", {"--rounds": lambda d: d.says("ms per image")}, needs=("gate",)),
    Row(
        "show an evaluation", "show e", {"run": lambda d: d.says("11 of 12 images of v, chosen from 21, each")}, needs=("eval",)
    ),
    Row(
        "report an evaluation",
        "report e",
        {"run": lambda d: "each decoded once for all arms" in d.text("e/report.html")},
        needs=("eval",),
    ),
    Row(
        "report",
        "report a --style paper --out report",
        {
            "run": lambda d: d.says("vim_nano . fp32 . batch 4"),
            "--out": lambda d: d.text("report/table.csv") == d.text("a/table.csv") and "report.html" in d.files("report"),
            "--style": lambda d: 'width="241' in d.text("report/speed_accuracy.svg"),  # 3.35 inches, a column of a paper
        },
        needs=("run",),
    ),
    Row("report merged", "report m", {"run": lambda d: d.files("m") >= {"report.html", "table.md"}}, needs=("merge",)),
    Row("report of a fleet", "report f3/manifest.json", {"run": lambda d: d.says("V100")}, needs=("fleet simulated",)),
]
MERGE = [
    Row(
        "compare a training",
        "compare a tr",
        {},
        code=2,
        refusal="compare runs of one kind of step",
        needs=("run", "run of training steps"),
    ),
    Row(
        "merge",
        "merge a f --prefer {id:a} --json m.json --out m",
        {
            "runs": lambda d: d.plan("m")["merged_from"] and d.warns("contradicts the preferred"),
            "--prefer": lambda d: {arm["backend"] for arm in d.arms("m")} == {"chunked"},
            "--json": lambda d: d.json("m.json")["run_id"].startswith("merged-"),
            "--out": lambda d: [arm["top1"] for arm in d.arms("m")] == [arm["top1"] for arm in d.arms("a")],
        },
        needs=RUNS,
    ),
    Row("merge what contradicts", "merge a f --out m1", {}, code=2, refusal="contradict each other", needs=RUNS),
    Row(
        "merge kinds",
        "merge s3 f3 f --json - --out m2",
        {
            "runs": lambda d: d.warns("was measured in .*the one with more rounds is kept"),
            "--json": lambda d: len(d.json()["devices"]) == 3 and len(d.json()["arms"]) == 6,
        },
        needs=("simulated once", "fleet simulated", "fleet"),
    ),
    Row(
        "merge an evaluation",
        "merge e --out m3",
        {"--out": lambda d: d.files("m3") >= {"classes.csv"} and [arm["n_images"] for arm in d.arms("m3")] == [11, 11]},
        needs=("eval",),
    ),
    Row("resume an evaluation", "resume e", {"run": lambda d: "accuracy: building" not in d.err}, needs=("eval",)),
    Row("repeat an evaluation", "rerun e --out e5", {"--out": lambda d: d.plan("e5") == d.plan("e")}, needs=("eval",)),
    Row(
        "compare evaluations",
        "compare e e5",
        {"head": lambda d: d.says("SAME: 2 quantities")},
        needs=("eval", "repeat an evaluation"),
    ),
    Row("export an evaluation", "export e --to gab", {"--to": lambda d: "r11" in d.out and ": top1" in d.out}, needs=("eval",)),
]
COMPARE = [
    Row(
        "compare",
        "compare g/base-1 g/head-1 --margin 3% --top1-margin 99 --json x.json --junit x.xml",
        {
            "base": lambda d: d.json("x.json")["base"] == d.json("g/base-1/manifest.json")["run_id"],
            "head": lambda d: all(
                c["change"]["value"] < -0.3 for c in d.json("x.json")["changes"] if c["metric"] == "images/s"
            ),
            "--margin": lambda d: {c["margin"] for c in d.json("x.json")["changes"] if c["metric"] == "images/s"} == {0.03},
            "--top1-margin": lambda d: {c["margin"] for c in d.json("x.json")["changes"] if c["metric"] == "top-1"} == {99.0},
            "--json": lambda d: (
                {c["detail"] for c in d.json("x.json")["changes"] if c["metric"] == "top-1"} == {"paired by image"}
            ),
            "--junit": lambda d: 'name="images/s"' in d.text("x.xml"),
        },
        code=4,
        needs=("gate",),
    ),
    Row(
        "compare others",
        "compare m f --json -",
        {"--json": lambda d: "backend" in str(d.json()["notes"])},
        code=4,
        needs=("merge",),
    ),
    Row("compare packed", "compare given.tar.gz a", {"base": lambda d: d.says("top-1 .*SAME")}, code=4, needs=PACKED),
    Row("compare simulated", "compare s3 s4", {}, code=5, refusal="cannot be compared", needs=("rerun",)),
    Row(
        "compare simulated, explained",
        "compare s3 s4 --explain",
        {"--explain": lambda d: d.says(r"vim_tiny/r0 images/s .*SIMULATED")},
        code=5,
        needs=("rerun",),
    ),
    Row(
        "gate of stored runs",
        "gate --base m --head a --margin 99%",
        {},
        code=5,
        refusal="no arm was measured in two processes of each side",
        needs=("merge",),
    ),
]
FIGURE = [
    Row(
        "figure",
        "figure a m g/base-1 --out drawn/figure.svg",
        {
            "runs": lambda d: d.says("drawn/figure.svg"),
            "--out": lambda d: d.text("drawn/figure.svg").startswith("<?xml"),
        },
        needs=("merge", "gate"),
    ),
    Row(
        "figure of packed and other runs",
        "figure given.tar.gz s5 --kind tokens --out drawn/tokens.svg",
        {"runs": lambda d: d.text("drawn/tokens.svg") != d.text("s5/tokens.svg")},
        needs=("contribute", "simulated models together"),
    ),
    refused("figure of one size", "figure a --kind tokens", "--kind", "measure with --img-size", "run"),
    Row(
        "figure of energy",
        "figure s1 --kind energy --style paper --out drawn",
        {"--kind": lambda d: {f"energy.{end}" for end in ("png", "pdf", "svg")} <= d.files("drawn")},
        needs=("simulated",),
    ),
    Row(
        "figure for the screen",
        "figure s1 --kind energy --out drawn/screen.svg",
        {"--style": lambda d: d.text("drawn/screen.svg") != d.text("drawn/energy.svg")},
        needs=("figure of energy",),
    ),
    Row(
        "export",
        "export m --to csv",
        {"run": lambda d: d.out.count("\n") == 3, "--to": lambda d: ",top1," in d.out},
        needs=("merge",),
    ),
    Row(
        "export a record",
        "export a --to json --out exported.json",
        {"--out": lambda d: d.json("exported.json") == d.json("a/manifest.json") and not d.out},
        needs=("run",),
    ),
    Row(
        "export a history",
        "export f --to gab",
        {"--to": lambda d: {e["unit"] for e in d.json()} == {"images/s", "x", "%"}},
        needs=("fleet",),
    ),
    Row(
        "export for Bencher",
        "export g/head-1 --to bmf",
        {"--to": lambda d: all({"images-per-second", "top1"} <= set(values) for values in d.json().values())},
        needs=("gate",),
    ),
    Row("export simulated", "export s3 --to gab", {}, code=5, refusal="simulated", needs=("simulated once",)),
]
ABLATE = [
    Row(
        "ablate",
        "ablate metric shuffle --model vim_nano --r 10 --checkpoint ck/vim_nano_r0.safetensors --data fm --seeds 2 "
        "--batch-size 3 --out ab",
        {
            "name": lambda d: {row["study"] for row in d.json("ab/vim_nano.json")["rows"]} == {"metric", "shuffle"},
            "--model": lambda d: d.says("Ablations of vim_nano"),
            "--r": lambda d: d.says("at r = 10") and not d.says("ratio 0.31"),
            "--checkpoint": lambda d: d.says("weights of vim_nano_r0.safetensors"),
            "--data": lambda d: {row["images"] for row in d.json("ab/vim_nano.json")["rows"]} == {10},  # all that are there
            "--seeds": lambda d: max(row["seeds"] for row in d.json("ab/vim_nano.json")["rows"]) == 2,
            "--batch-size": lambda d: d.json("ab/vim_nano.json")["settings"]["batch_size"] == 3,
            "--out": lambda d: d.files("ab") == {"vim_nano.md", "vim_nano.csv", "vim_nano.json"},
        },
        needs=("retrain",),
    ),
    Row("ablations", "ablate", {"name": lambda d: d.out.count("\n") > 10 and d.says(r"metric .*Table 6")}),
    Row(
        "ablate where it cannot",
        "ablate mode --images 2 --backend mamba_ssm",
        {"--backend": lambda d: d.warns("mamba-ssm's kernels are for CUDA GPUs")},
        code=6,
        refusal="mamba-ssm",
    ),
    Row(
        "every ablation",
        "ablate --all --retrained --images 2 --seeds 1 --out ab2",
        {
            "--images": lambda d: {row["images"] for row in d.json("ab2/vim_nano.json")["rows"]} == {2},
            "--all": lambda d: len({row["study"] for row in d.json("ab2/vim_nano.json")["rows"]}) > 10,
            "--retrained": lambda d: d.json("ab2/vim_nano.json")["settings"]["weights"] == "vim_nano_r11.safetensors",
        },
    ),
]
DRAW = [
    Row(
        "visualize",
        "visualize flat/i00.png --model vim_nano --ratio 0.14 --checkpoint ck/vim_nano_r11.safetensors --prune --stages "
        "--format jpg --out pictures1",
        {
            "image": lambda d: "i00_r5.png" in d.files("pictures1"),
            "--ratio": lambda d: d.says("i00_r5"),
            "--format": lambda d: "contact_sheet.jpg" in d.files("pictures1"),
            "--stages": lambda d: d.width("pictures1/i00_r5.png") > d.width("pictures/i01_r20.png"),
            "--out": lambda d: d.says("pictures1/contact_sheet.jpg"),
            "--prune": lambda d: d.sha256("pictures1/i00_r5.png") != d.sha256("pictures2/i00_r5.png"),
        },
        needs=("visualize again", "visualize merged", "retrain"),
    ),
    Row(
        "visualize merged",
        "visualize flat/i00.png --r 5 --stages --checkpoint ck/vim_nano_r11.safetensors --out pictures2",
        {"--r": lambda d: d.says("i00_r5")},
        needs=("retrain",),
    ),
    refused("visualize another model", "visualize flat/i00.png --model vim_nono", "--model", "vim_nano"),
    refused(
        "visualize other weights",
        "visualize flat/i00.png --checkpoint published/README.md",
        "--checkpoint",
        "README.md",
        "push",
    ),
    Row("visualize again", "visualize flat/i01.png --r 20", {"--r": lambda d: "i01_r20.png" in d.files("pictures")}),
    Row(
        "visualize larger",
        "visualize flat/i01.png --img-size 56 --ratio 0.31 --out pictures3",
        {"--img-size": lambda d: d.says("i01_r44") and d.warns("resized")},
    ),
    refused("visualize two sizes", "visualize flat/i01.png --img-size 28,56", "--img-size", "one image size"),
    Row(
        "roofline of a run",
        "roofline s1 --style paper --json roof.json --out roof",
        {
            "run": lambda d: (
                [row["images_per_second"] for row in d.json("roof.json")]
                == [a["images_per_second"]["value"] for a in d.arms("s1")]
            ),
            "--json": lambda d: {row["verdict"] for row in d.json("roof.json")} == {"SIMULATED"},
            "--out": lambda d: d.files("roof") == {f"roofline_a4000_vim_tiny.{end}" for end in ("png", "pdf", "svg")},
        },
        needs=("simulated",),
    ),
    Row(
        "roofline",
        "roofline --gpu v100 --model vim_tiny --r 0,5 --batch-size 1 --style screen --out roof2",
        {
            "--gpu": lambda d: d.says(r"V100 \(v100\)|V100"),
            "--model": lambda d: d.says("vim_tiny, half precision, batch 1"),
            "--r": lambda d: d.says(r"\b5 0\.1"),
            "--batch-size": lambda d: d.says("batch 1 "),
            "--style": lambda d: (
                d.svg_width("roof2/roofline_v100_vim_tiny.svg") != d.svg_width("roof/roofline_a4000_vim_tiny.svg")
            ),
        },
        needs=("roofline of a run",),
    ),
    Row(
        "roofline of ratios",
        "roofline --gpu a4000 --img-size 224,384 --ratios 0.54 --json -",
        {
            "--ratios": lambda d: [row["r"] for row in d.json()] == [20, 58],
            "--img-size": lambda d: [row["model"] for row in d.json()] == ["vim_small", "vim_small_384"],
        },
    ),
]
COUNT = [
    Row(
        "flops",
        "flops --model vim_tiny,deit_tiny --img-size 224,384 --ratios 0,0.31 --convention hook --preset upstream_exact "
        "--placement odd --json flops.json",
        {
            "--model": lambda d: {row["model"][:8] for row in d.json("flops.json")} == {"vim_tiny", "deit_tin"},
            "--img-size": lambda d: {row["model"][-4:] for row in d.json("flops.json")} == {"tiny", "_384"},
            "--ratios": lambda d: len(d.json("flops.json")) == 8,
            "--convention": lambda d: set(d.json("flops.json")[0]["gflops"]) == {"paper", "hook", "hook_without_matching"},
            "--preset": lambda d: d.json("flops.json")[0]["final_tokens"] == 99,  # its last merge takes all it can
            "--placement": lambda d: d.json("flops.json")[1]["r"] == 10,  # 11 in even blocks: they merge once less
            "--json": lambda d: d.says("vim_tiny, preset upstream_exact, odd blocks"),
        },
    ),
    Row(
        "flops of timm",
        "flops --model timm:deit_tiny_patch16_224,deit_tiny --r 0 --json -",
        {
            "--model": lambda d: d.json()[0]["gflops"]["counted"] == d.json()[1]["gflops"]["analytic"]
        },  # it counts attention, too
    ),
    refused("flops of none of timm's", "flops --model timm:resnat50", "--model", "did you mean resnet50"),
    Row("flops at r", "flops --model vim_tiny --r 5 --json -", {"--r": lambda d: [row["r"] for row in d.json()] == [5]}),
    Row(
        "paper",
        "paper 12 17 fig4 --runs a s1 m --style paper --out paper",
        {
            "items": lambda d: {"table_12.md", "table_17.csv", "fig4.svg"} <= d.files("paper"),
            "--out": lambda d: len(d.files("paper")) == 11,
            "--runs": lambda d: d.warns("SIMULATED") and d.warns("EXPLORATORY"),
            "--style": lambda d: d.svg_width("paper/fig4.svg") != d.svg_width("paper2/fig4.svg"),
        },
        needs=("the whole paper", "merge", "simulated"),
    ),
    Row(
        "the whole paper",
        "paper --all --out paper2",
        {"--all": lambda d: "index.html" in d.files("paper2") and d.out.count("\n") == 27},
    ),
    Row(
        "the paper with trainings",
        "paper --list --trainings ck",
        {
            "--list": lambda d: d.out.count("      needs    ") == 27,
            "--trainings": lambda d: d.says("stand-ins"),
        },
        needs=("retrain",),
    ),
    refused(
        "the paper with no ablations",
        "paper --list --ablations fm",
        "--ablations",
        "fm holds no .json of `rmeeto-bench ablate --out`",
    ),
    Row(
        "doctor",
        "doctor --gpus none --model vim_nano --strict",
        {
            "--gpus": lambda d: d.says(r"cpu: "),
            "--model": lambda d: d.says("kernels for vim_nano"),
            "--strict": lambda d: d.says(r"would make a run invalid: the load average"),
        },
        code=6,
        prepare=crowded,
    ),
    Row(
        "models", "models --json -", {"--json": lambda d: {"vim_tiny", "vim_small_rmeeto_r11"} <= {e["name"] for e in d.json()}}
    ),
    Row("models as a table", "models", {"--json": lambda d: d.says("vim_nano .*bundled")}, needs=("models",)),
    Row("profiles", "profiles", {}, says="rtx4090.*v100"),
]
READING = [*SHOW, *MERGE, *COMPARE, *FIGURE, *ABLATE, *DRAW, *COUNT]
