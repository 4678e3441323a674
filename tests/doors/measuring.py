"""The rows of commands that measure, train or evaluate: what later rows read is made here."""

from __future__ import annotations

import gzip
import json
import re

from machines import DRAWN, FILES
from world import Done, Row, refused


def traced(done: Done, path: str) -> list[object]:
    """The events of a Chrome trace."""
    return list(json.loads(gzip.decompress((done.world.root / path).read_bytes()))["traceEvents"])


TRAINING = (
    "retrain --model vim_nano --r 0,11 --preset nano_retrain --data fm --init bundled --epochs 1 --lr 1e-7 --batch-size 2 "
    "--accumulation 2 --precision bf16 --teacher self --fraction 0.5 --seed 7 --set augmentation.label_smoothing=0.2 "
    "--backend chunked --device cpu --workers 0 --save-every 1 --log-every 1 --half --out ck"
)
RETRAIN = [
    Row(
        "retrain",
        TRAINING,
        {
            "--model": lambda d: d.log("ck/vim_nano_r11")[0]["model"] == "vim_nano",
            "--r": lambda d: {"vim_nano_r0.safetensors", "vim_nano_r11.safetensors"} <= d.files("ck"),
            "--preset": lambda d: d.log("ck/vim_nano_r11")[0]["recipe"]["name"] == "nano_retrain",
            "--data": lambda d: d.log("ck/vim_nano_r11")[-1]["n_images"] == 10,
            "--init": lambda d: d.log("ck/vim_nano_r0")[-1]["top1"] > 60,
            "--epochs": lambda d: d.warns(r"step 2/2 epoch 1\.00"),  # half of 16 images, 4 a step
            "--lr": lambda d: d.warns(r"lr 1\.00e-0[78]"),
            "--batch-size": lambda d: d.log("ck/vim_nano_r11")[0]["recipe"]["optimisation"]["batch_size"] == 2,
            "--accumulation": lambda d: d.warns("step 1/2"),
            "--precision": lambda d: d.log("ck/vim_nano_r11")[0]["recipe"]["optimisation"]["precision"] == "bf16",
            "--teacher": lambda d: d.log("ck/vim_nano_r11")[0]["recipe"]["teacher"]["source"] == "self",
            "--fraction": lambda d: d.warns("step 2/2"),
            "--seed": lambda d: d.log("ck/vim_nano_r11")[0]["recipe"]["seed"] == 7,
            "--set": lambda d: d.log("ck/vim_nano_r11")[0]["recipe"]["augmentation"]["label_smoothing"] == 0.2,
            "--backend": lambda d: d.log("ck/vim_nano_r11")[0]["kernels"] == "chunked",
            "--device": lambda d: d.warns("1 x cpu"),
            "--workers": lambda d: d.log("ck/vim_nano_r11")[-1]["unreadable"] == [],
            "--save-every": lambda d: not (d.world.root / "ck" / "vim_nano_r11.state").exists(),  # removed when it is done
            "--log-every": lambda d: len(d.log("ck/vim_nano_r11")) == 4 and d.warns("images/s") and d.warns("data wait"),
            "--half": lambda d: {str(tensor.dtype) for tensor in d.tensors("ck/vim_nano_r11.safetensors")} >= {"torch.float16"},
            "--out": lambda d: (
                d.says(r"ck/vim_nano_r11\.safetensors done top-1") and d.files("ck") >= {"curves.png", "minutes.md"}
            ),
        },
    ),
    Row(
        "retrain again",
        TRAINING + " --resume",
        {"--resume": lambda d: d.out.count("already done") == 2 and "step" not in d.err},
        needs=("retrain",),
    ),
    Row(
        "retrain folders",
        "retrain --ratios 0.31 --recipe nano --data folders --on-error skip --init none --unordered --reduce distance=l1 "
        "--ema 0.5 --set img_size=14 --set optimisation.batch_size=9 --fraction 1 --workers 1 --log-every 9 --out ck2",
        {
            "--ratios": lambda d: d.log(d.one("ck2", ".jsonl"))[0]["reduction"]["r"] == 11,
            "--recipe": lambda d: d.log(d.one("ck2", ".jsonl"))[0]["recipe"]["name"] == "nano",
            "--on-error": lambda d: d.warns(r"skipped: 1, .*odd\.png"),
            "--unordered": lambda d: not d.log(d.one("ck2", ".jsonl"))[0]["reduction"]["ordered"],
            "--reduce": lambda d: "distance-l1" in d.one("ck2", ".jsonl"),
            "--ema": lambda d: d.log(d.one("ck2", ".jsonl"))[0]["recipe"]["ema_decay"] == 0.5,
        },
    ),
    Row(  # What it changes is shown by tests/checkpoints/test_nothing_is_overwritten.py.
        "retrain by a map",
        "retrain -r 5 --data fm --class-map map.txt --out ck4",
        {"--class-map": lambda d: d.warns("--class-map map.txt has no use: the data has no class folders")},
        code=2,
    ),
    Row(
        "retrain pruned",
        "retrain -r 5 --data fm --prune --set img_size=14 --set optimisation.batch_size=8 --epochs 1 --out ck3",
        {
            "-r": lambda d: d.log(d.one("ck3", ".jsonl"))[0]["reduction"]["r"] == 5,
            "--prune": lambda d: d.log(d.one("ck3", ".jsonl"))[0]["reduction"]["prune"],
        },
    ),
    Row(
        "retrain by force",
        "retrain -r 5 --data fm --prune --set img_size=14 --set optimisation.batch_size=8 --epochs 1 --out ck3 --force",
        {"--force": lambda d: d.says(r"ck3/.* done top-1") and d.warns("step 2/2")},
        needs=("retrain pruned",),
    ),
    refused("recipe of a size that leaves a rest", "retrain --show --set img_size=15", "--set", "img_size 15 does not fit"),
    Row(
        "recipe",
        "retrain --preset upstream_exact --show --epochs 3 --teacher none",
        {"--show": lambda d: d.says(r"upstream_exact schedule.epochs=3\.0.*upstream_accumulation=True.*teacher.source=none")},
    ),
]
SIMULATED = "--device sim --model vim_tiny --ratios 0,0.31"
RUN = [
    Row(
        "run",
        "run --gpus none --quick --r 0,11 --batch-size 4 --backend chunked --checkpoints ck --data flat --labels listed.txt "
        "--class-map map.txt --on-error skip --images 12 --inputs random --no-graphs --trace --fed --json a.json --out a",
        {
            "--gpus": lambda d: [device["id"] for device in d.json("a/manifest.json")["devices"]] == ["cpu"],
            "--quick": lambda d: {(arm["verdict"], arm["sessions"]) for arm in d.arms("a")} == {("EXPLORATORY", 1)},
            "--r": lambda d: [arm["r"] for arm in d.arms("a")] == [0, 11],
            "--batch-size": lambda d: {arm["batch_size"] for arm in d.arms("a")} == {4},
            "--backend": lambda d: {arm["backend"] for arm in d.arms("a")} == {"chunked"},
            "--checkpoints": lambda d: d.arms("a")[1]["checkpoint_sha256"] == d.sha256("ck/vim_nano_r11.safetensors"),
            "--data": lambda d: d.json("a/manifest.json")["data"]["vim_nano"]["name"].startswith("flat"),
            "--labels": lambda d: d.arms("a")[0]["top1"]["value"] > 80,
            "--class-map": lambda d: d.arms("a")[0]["top1"]["value"] > 80,  # the alphabet has it backwards
            "--on-error": lambda d: {arm["n_images"] for arm in d.arms("a")} == {11},
            "--images": lambda d: d.says("11 images of flat.*, chosen from 21"),
            "--inputs": lambda d: d.json("a/manifest.json")["data"]["vim_nano"]["inputs"] != "real images",
            "--no-graphs": lambda d: d.plan("a")["graphs"] is False,  # what it changes needs a GPU
            "--fed": lambda d: d.says("fed images/s") and all(len(arm["fed"]) == 4 for arm in d.arms("a")),
            "--trace": lambda d: (
                d.files("a/trace") == {"operations_vim_nano.md", "vim_nano_r0.json.gz", "vim_nano_r11.json.gz"}
                and len(re.findall("aten::.*mm", d.text("a/trace/operations_vim_nano.md"))) >= 2
                and len(traced(d, "a/trace/vim_nano_r11.json.gz")) > 99
            ),
            "--json": lambda d: d.json("a.json") == d.json("a/manifest.json"),
            "--out": lambda d: d.files("a") >= FILES | DRAWN and d.says("files: a"),
        },
        needs=("retrain",),
    ),
    Row(
        "run again",
        "--gpus none --quick --r 0,11 --out a --resume",
        {"--resume": lambda d: d.json("a/manifest.json")["run_id"] == d.json("a.json")["run_id"] and "session" not in d.err},
        needs=("run",),
    ),
    refused("run of averages", "--gpus none --r 0 --checkpoints ck --ema --dry-run", "--ema", "no EMA weights", "retrain"),
    *(
        refused(f"{start} by less than no process", f"{start} --workers -1", "--workers", "--workers must be 0")
        for start in ("run --gpus none", "resume a", "rerun a")
    ),
    Row(
        "run that only evaluates",
        "--gpus none --r 0,11 --accuracy-only --images 12 --out a2",
        {"--accuracy-only": lambda d: {(arm["n_images"], arm["rounds"]) for arm in d.arms("a2")} == {(12, 0)}},
    ),
    Row(
        "run of training steps",
        "--gpus none --quick --model vim_nano --r 0,20 --batch-size 2 --what train --out tr",
        {"--what": lambda d: [arm["what"] for arm in d.arms("tr")] == ["train"] * 2 and d.says("vim_nano in training")},
    ),
    refused("run twice", "--gpus none --out a", "", "already holds a run", "run"),
    Row(
        "simulated",
        f"{SIMULATED} --gpus a4000 --sustained --precision bf16 --batch-size sweep --paper-mode --energy --seed 5 --out s1",
        {
            "--device": lambda d: {arm["verdict"] for arm in d.arms("s1")} == {"SIMULATED"},
            "--model": lambda d: {arm["model"] for arm in d.arms("s1")} == {"vim_tiny"},
            "--ratios": lambda d: [arm["r"] for arm in d.arms("s1")] == [0, 11],
            "--sustained": lambda d: {arm["rounds"] for arm in d.arms("s1")} == {60},
            "--precision": lambda d: {arm["precision"] for arm in d.arms("s1")} == {"bf16"},
            "--batch-size": lambda d: len({point["batch_size"] for point in d.json("s1/manifest.json")["sweep"]}) > 5,
            "--paper-mode": lambda d: all(arm["paper_mode"] for arm in d.arms("s1")),
            "--energy": lambda d: any(arm["joules_per_image"] for arm in d.arms("s1")),
        },
    ),
    Row(
        "simulated together",
        f"{SIMULATED} --gpus a4000,v100 --quick --schedule parallel --seed 6 --out s2",
        {
            "--schedule": lambda d: d.warns("parallel|together"),
            "--seed": lambda d: (
                d.arms("s2")[0]["images_per_second"] != d.before("simulated").arms("s1")[0]["images_per_second"]
            ),
        },
        needs=("simulated",),
    ),
    Row(
        "simulated models together",
        "--device sim --model vim_tiny,deit_tiny --img-size 224,384 --gpus v100 --ratios 0,0.31 --quick --together "
        "--baseline deit_tiny/r11 --out s5",
        {
            "--together": lambda d: [arm["rounds"] for arm in d.arms("s5")] == [d.arms("s5")[0]["rounds"]] * 8,
            "--img-size": lambda d: "tokens.svg" in d.files("s5") and "over the tokens" in d.text("s5/report.html"),
            "--baseline": lambda d: d.says("4 models over deit_tiny/r11") and d.arms("s5")[0]["speedup"]["value"] == 1,
        },
    ),
    Row(
        "run of a model of timm",
        "--gpus none --model vim_nano,timm:test_vit --r 0 --together --dry-run",
        {"--model": lambda d: d.says("timm:test_vit: as it is") and d.says("timm:test_vit/r0: random weights")},
    ),
    Row(
        "run through torch.compile",
        "--gpus none --model vim_nano,timm:test_vit --r 0 --compile --baseline compile:vim_nano --dry-run",
        {"--compile": lambda d: d.says("compile:timm:test_vit: as it is") and d.says("over compile:vim_nano/r0")},
    ),
    Row(
        "run of one's own code",
        "--gpus none --accuracy-only --model vim_nano --r 0 --arm own=mine:constant --data v --class-map map.txt "
        "--on-error skip --out o1",
        {"--arm": lambda d: d.says(r"own .* own code") and d.arms("o1")[1]["n_images"] == 20},
    ),
    Row(
        "resume of one's own code",
        "resume o1 --arm own=mine:constant",
        {"--arm": lambda d: d.says("own code")},
        needs=("run of one's own code",),
    ),
    Row(
        "rerun of one's own code",
        "rerun o1 --arm own=mine:constant --out o2",
        {"--arm": lambda d: d.arms("o2")[1]["top1"] == d.arms("o1")[1]["top1"]},
        needs=("run of one's own code",),
    ),
    Row("simulated once", f"{SIMULATED} --gpus v100 --quick --out s3", {"--gpus": lambda d: d.says("V100 .simulated.")}),
    Row(
        "dry run",
        "--gpus none --model vim_nano,vim_tiny --img-size 224,448 --rigorous --r 0 --dry-run --out nothing",
        {
            "--img-size": lambda d: d.says("vim_nano_224") and d.says("vim_tiny: ") and d.says("vim_tiny_448"),
            "--dry-run": lambda d: d.says("timing in all") and not (d.world.root / "nothing").exists(),
            "--rigorous": lambda d: d.says("12 sessions of 12 rounds"),
        },
    ),
    Row(
        "rerun",
        "rerun s3 --out s4 --json -",
        {
            "run": lambda d: d.json()["parent_run"] == d.json("s3/manifest.json")["run_id"],
            "--out": lambda d: d.files("s4") >= FILES | DRAWN,
            # The same seed: the simulator gives the same numbers.
            "--json": lambda d: (
                [arm["images_per_second"] for arm in d.json()["arms"]] == [arm["images_per_second"] for arm in d.arms("s3")]
            ),
        },
        needs=("simulated once",),
    ),
    Row(
        "resume",
        "resume s3 --json -",
        {
            "run": lambda d: "session 1: timing" not in d.err,  # nothing was missing
            "--json": lambda d: [arm["speedup"] for arm in d.json()["arms"]] == [arm["speedup"] for arm in d.arms("s3")],
        },
        needs=("simulated once",),
    ),
]
EVALUATED = (
    "eval --gpus none --model vim_nano --r 0,11 --checkpoints ck --data v --class-map map.txt --on-error skip --images 12 "
    "--workers 1 --batch-size 5 --precision bf16 --backend chunked --out e"
)
EVAL = [
    Row(
        "eval",
        EVALUATED + " --json e.json",
        {
            "--gpus": lambda d: len(d.json("e.json")["devices"]) == 1,
            "--model": lambda d: {arm["model"] for arm in d.json("e.json")["arms"]} == {"vim_nano"},
            "--r": lambda d: [arm["r"] for arm in d.json("e.json")["arms"]] == [0, 11],
            "--checkpoints": lambda d: (
                d.json("e.json")["arms"][1]["checkpoint_sha256"] == d.sha256("ck/vim_nano_r11.safetensors")
            ),
            "--data": lambda d: d.says("images of v,"),
            "--class-map": lambda d: d.json("e.json")["arms"][0]["top1"]["value"] > 80,
            "--on-error": lambda d: any("odd.png" in str(data["problems"]) for data in d.json("e.json")["data"].values()),
            "--images": lambda d: {arm["n_images"] for arm in d.json("e.json")["arms"]} <= {11, 12},
            "--batch-size": lambda d: '"batch_size": 5' in str(d.rows("e", "SELECT settings FROM pass")),
            "--precision": lambda d: '"precision": "bf16"' in str(d.rows("e", "SELECT settings FROM pass")),
            "--json": lambda d: d.json("e.json") == d.json("e/manifest.json"),
            "--out": lambda d: FILES | DRAWN | {"classes.csv", "classes.png"} <= d.files("e"),
        },
        needs=("retrain",),
    ),
    Row(
        "eval again",
        EVALUATED + " --resume --json -",
        {"--resume": lambda d: d.json()["arms"] == d.json("e.json")["arms"]},
        needs=("eval",),
    ),
    refused("eval of averages", "eval --gpus none --r 0 --checkpoints ck --ema --out e4", "--ema", "no EMA weights", "retrain"),
    Row(
        "eval where it cannot",
        "eval --gpus none --r 0 --backend mamba_ssm --images 2 --out e3",
        {"--backend": lambda d: d.warns("mamba-ssm's kernels are for CUDA GPUs")},
        code=6,
    ),
    refused(
        "eval at a size that leaves a rest",
        "eval --gpus none --img-size 15",
        "--img-size",
        "img_size 15 does not fit.*14 or 16",
    ),
    Row(
        "eval at another size",
        "eval --gpus none --model vim_nano --img-size 14 --r 0 --data v --class-map map.txt --on-error skip --checkpoints ck "
        "--out e8",
        {
            "--img-size": lambda d: (
                [(arm["arm"], arm["labels"]) for arm in d.arms("e8")] == [("vim_nano_14/r0", ["resized positions"])]
            )
        },
        needs=("retrain",),
    ),
    Row(
        "eval of models together",
        "eval --gpus none --model vim_nano,vim_nano_14 --r 0 --data v --class-map map.txt --on-error skip --together "
        "--baseline vim_nano_14 --out e9",
        {
            "--together": lambda d: d.arms("e9")[1]["delta_top1"]["value"] > 0,
            "--baseline": lambda d: [arm["arm"] for arm in d.arms("e9")] == ["vim_nano_14/r0", "vim_nano/r0"],
        },
    ),
    refused("eval by less than no process", "eval --workers -1", "--workers", "--workers must be 0"),
    Row(
        "eval a list",
        "eval --gpus none --ratios 0,0.31 --data flat --labels listed.txt --class-map map.txt --subset 10 --workers 0 "
        "--on-error skip --out e2",
        {
            "--ratios": lambda d: [arm["ratio_requested"] for arm in d.arms("e2")] == [0, 0.31],
            "--labels": lambda d: d.arms("e2")[0]["top1"]["value"] > 80,
            "--subset": lambda d: {arm["n_images"] for arm in d.arms("e2")} <= {9, 10},
        },
    ),
]
MEASURING = [*RETRAIN, *RUN, *EVAL]
