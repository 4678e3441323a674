"""The rows of commands that publish checkpoints, fetch and check them."""

from __future__ import annotations

from hub import with_hub
from world import Row

PUBLISHING = [
    Row(
        "push",
        "push ck/vim_nano_r11.safetensors --to published --run a --base me/base --license apache-2.0",
        {
            "checkpoint": lambda d: d.sha256("ck/vim_nano_r11.safetensors") in d.text("published/README.md"),
            "--to": lambda d: d.files("published") == {"model.safetensors", "config.json", "README.md"},
            "--run": lambda d: f"{d.arms('a')[1]['top1']['value']:.2f} %" in d.text("published/README.md"),
            "--base": lambda d: "me/base" in d.text("published/README.md"),
            "--license": lambda d: "license: apache-2.0" in d.text("published/README.md"),
        },
        needs=("run",),
    ),
    Row(
        "push a file that says nothing",
        "push averaged.pth --to published4 --model vim_nano --r 10",
        {
            "--model": lambda d: d.json("published4/config.json")["rmeeto_bench"]["model"] == "vim_nano",
            "--r": lambda d: d.json("published4/config.json")["model_args"]["r"] == 10,
        },
    ),
    Row(
        "push to the hub",
        "push {bundled}/vim_nano_r5.safetensors --to org/repo --private",
        {
            "--to": lambda d: d.says("http://127.0.0.1:[0-9]+/org/repo/commit/c0c0"),
            "--private": lambda d: '"visibility":"private"' in d.text("hub_repositories/asked").replace(" ", ""),
        },
        prepare=with_hub,
    ),
    Row(
        "pull",
        "pull org/repo --out own",
        {
            "source": lambda d: (
                d.sha256("own/vim_nano_r5.safetensors") == d.sha256("hub_repositories/org/repo/model.safetensors")
            ),
            "--out": lambda d: d.says("own/vim_nano_r5.safetensors"),
        },
        needs=("push to the hub",),
        prepare=with_hub,
    ),
    Row(
        "push once more",
        "push {bundled}/vim_nano_r11.safetensors --to published2",
        {"--to": lambda d: "README.md" in d.files("published2")},
    ),
    Row(
        "pull by force",
        "pull published2 --force",
        {"--force": lambda d: d.sha256("checkpoints/vim_nano_r11.safetensors") == d.sha256("published2/model.safetensors")},
        needs=("pull a folder", "push once more"),
    ),
    Row(
        "push by force",
        "push {bundled}/vim_nano_r0.safetensors --to published2 --force",
        {"--force": lambda d: d.json("published2/config.json")["rmeeto_bench"]["r"] == 0},
        needs=("pull by force",),
    ),
    Row(
        "pull a folder", "pull published", {"source": lambda d: d.says("checkpoints/vim_nano_r11.safetensors")}, needs=("push",)
    ),
    Row(
        "verify",
        "verify own/vim_nano_r5.safetensors",
        {"file": lambda d: d.says("trained at r = 5") and d.says("fits vim_nano, as the file says")},
        needs=("pull",),
    ),
    Row(
        "verify averages",
        "verify averaged.pth --model vim_nano --ema",
        {"--ema": lambda d: d.says("in model_ema"), "--model": lambda d: d.says("fits vim_nano") and not d.says("not checked")},
    ),
    Row(
        "verify no averages",
        "verify checkpoints/vim_nano_r11.safetensors --ema",
        {},
        code=2,
        refusal="no EMA weights",
        needs=("pull a folder",),
    ),
]
