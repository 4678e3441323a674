"""Sharing re-trained checkpoints: a folder in timm's format with a model card, on the hub or on a disk, and back again.

The folder is what `timm.create_model("hf-hub:ORG/REPO")` and `("local-dir:FOLDER")` read: `model.safetensors`, `config.json`
(whose `model_args` carry r, for which a pretrained tag has no room), `README.md`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from rmeeto_bench.checkpoints.reader import Checkpoint, read_checkpoint, sha256
from rmeeto_bench.checkpoints.trained import in_words, written
from rmeeto_bench.checkpoints.writer import save_checkpoint
from rmeeto_bench.errors import CheckpointError, UnavailableError
from rmeeto_bench.files import write_atomic
from rmeeto_bench.records.run import Estimate
from rmeeto_bench.reduction.config import ReductionConfig

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
OWN = "rmeeto_bench"  # our entry of config.json
PAPER = "arxiv:2412.12496"
LARGEST_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True)
class PublishedAccuracy:
    """What was measured of a checkpoint."""

    data: str  # name of the data set
    n_images: int  # images evaluated
    top1: Estimate  # percent
    delta: Estimate | None = None  # percentage points against r = 0; None: not measured
    run_id: str = ""  # run that measured it


@dataclass(frozen=True)
class Publication:
    """A checkpoint and everything its card says. The recipe and other provenance come from the file itself."""

    checkpoint: Path  # file to publish
    architecture: str | None  # timm's name; None: timm does not know the model
    model: str  # name of the model
    r: int  # tokens that each merge removes
    reduction_ratio: float  # that r reaches
    num_classes: int  # classes of the head
    accuracy: PublishedAccuracy | None = None  # None: nothing was measured
    base: str | None = None  # repository of the weights it was trained from; None: not stated
    licence: str = "mit"  # identifier of the licence
    sizes: Mapping[str, Any] = field(default_factory=dict)  # what differs from the sizes of the architecture


def _interval(estimate: Estimate, unit: str, sign: str = "") -> str:
    text = f"{estimate.value:{sign}.2f} {unit}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


def _card_data(publication: Publication) -> ModelCardData:
    results = None
    if publication.accuracy is not None:
        accuracy = publication.accuracy
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=accuracy.data.split(",")[0].lower().replace(" ", "-"),
                dataset_name=accuracy.data,
                metric_type="accuracy",
                metric_name="top-1",
                metric_value=round(accuracy.top1.value / 100, 6),
            )
        ]
    return ModelCardData(
        license=publication.licence,
        library_name="timm" if publication.architecture else "rmeeto-bench",
        pipeline_tag="image-classification",
        tags=["vision-mamba", "token-merging", "r-meeto", PAPER],
        base_model=publication.base,
        model_name=f"{publication.model}_r{publication.r}",
        eval_results=results,
    )


def _accuracy_lines(publication: Publication, metadata: Mapping[str, str]) -> list[str]:
    if publication.accuracy is None:
        said = metadata.get("top1")
        own = f"{said} % top-1 at the end of the training, without an interval" if said else "not measured"
        return [f"| accuracy | {own} |"]
    accuracy = publication.accuracy
    lines = [f"| top-1 | {_interval(accuracy.top1, '%')} (95 % interval) on {accuracy.n_images} images of {accuracy.data} |"]
    if accuracy.delta is not None:
        lines.append(f"| against r = 0 | {_interval(accuracy.delta, 'points', '+')} (paired by image) |")
    return [*lines, f"| measured in | run `{accuracy.run_id}` |"]


def _text(value: object) -> str:
    """A value in a Markdown table: one line, no markup of its own."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")[:200]


def _use(publication: Publication) -> list[str]:
    """The lines of code that load it."""
    if publication.architecture is None:
        call = f'model = rb.create_model("{publication.model}", r={publication.r}, checkpoint="{WEIGHTS}")'
        return ["```python", "import rmeeto_bench as rb", "", call, "```"]
    lines = ["import timm", "import rmeeto_bench  # makes the model known to timm", ""]
    return ["```python", *lines, 'model = timm.create_model("hf-hub:ORG/REPO", pretrained=True)  # r is in its config', "```"]


def card(publication: Publication, checkpoint: Checkpoint, published_sha256: str) -> str:
    """The model card's text: what it is, accuracy with interval, recipe, provenance, how to use it."""
    provenance = checkpoint.provenance
    said = {"top1", "reduction", "num_classes"}  # in rows of their own
    recipe: dict[str, object] = {key: value for key, value in provenance.metadata.items() if key not in said}
    recipe |= {key: value for key, value in provenance.args.items() if isinstance(value, (str, int, float, bool))}
    known = provenance.reduction or ReductionConfig(r=publication.r)
    kind = "token pruning" if known.prune else "token merging"
    lines = [
        f"# {publication.model} with {kind}, {in_words(known)}",
        "",
        f"A model that was trained with {kind} (R-MeeTo, {PAPER}), {in_words(known)}, for {publication.num_classes} classes.",
        "",
        "| | |",
        "| --- | --- |",
        f"| tokens removed per merge | {publication.r} |",
        f"| reduction | {in_words(known)} |",
        f"| classes | {publication.num_classes} |",
        f"| reduction ratio | {publication.reduction_ratio:.4f} |",
        *_accuracy_lines(publication, provenance.metadata),
        f"| base model | {_text(publication.base or 'not said')} |",
        f"| made from | `{_text(provenance.path.name)}`, sha256 `{provenance.sha256}` |",
        f"| these weights | sha256 `{published_sha256}` |",
        *(f"| {_text(key)} | {_text(value)} |" for key, value in sorted(recipe.items())),
        "",
        "## Use",
        "",
        *_use(publication),
        "",
        "`rmeeto-bench pull ORG/REPO --out checkpoints` fetches it for the benchmark.",
    ]
    return ModelCard(f"---\n{_card_data(publication).to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").content


def _config(publication: Publication, digest: str) -> dict[str, Any]:
    timm = {} if publication.architecture is None else {"architecture": publication.architecture}
    return {
        **timm,
        "num_classes": publication.num_classes,
        "model_args": {"r": publication.r, **publication.sizes},
        "pretrained_cfg": {"num_classes": publication.num_classes, "license": publication.licence},
        OWN: {"model": publication.model, "r": publication.r, "sha256": digest},
    }


def write_repository(publication: Publication, folder: Path, *, force: bool = False) -> Path:
    """Write weights, config and card into `folder`, and return it; `force` replaces those of another publication.

    Raises `CheckpointError` for a file that is no checkpoint, or for a folder with other things in it.
    """
    allowed = {WEIGHTS, CONFIG, CARD}
    others = sorted(path.name for path in folder.iterdir() if path.name not in allowed) if folder.is_dir() else []
    if others:
        raise CheckpointError(f"{folder} holds {others[0]}, which would be published too; choose an empty folder")
    if (folder / WEIGHTS).exists() and not force:
        raise CheckpointError(f"{folder} holds a publication already; --force replaces it, or choose another --to")
    checkpoint = read_checkpoint(publication.checkpoint)
    known = checkpoint.provenance.reduction
    metadata = {**checkpoint.provenance.metadata, "model": publication.model, "r": str(publication.r)}
    if known is not None:
        metadata["reduction"] = written(known)
    weights = save_checkpoint(checkpoint.state_dict, folder / WEIGHTS, metadata=metadata)
    digest = sha256(weights)
    write_atomic(folder / CONFIG, json.dumps(_config(publication, digest), indent=1) + "\n")
    write_atomic(folder / CARD, card(publication, checkpoint, digest))
    return folder


def is_hub_name(name: str) -> bool:
    """Whether a destination is `org/repo` on the hub and not a path."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a folder of `write_repository` to the hub, with the token of the hub's own client; returns the commit's address.

    Raises `UnavailableError` without a network or a token.
    """
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=[WEIGHTS, CONFIG, CARD])
        return str(done.commit_url)
    except (OSError, HfHubHTTPError, ValueError) as error:  # ValueError: something else than a hub answers, a proxy say
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnavailableError(f"cannot push to {repo} ({reason}); log in with the hub's client: hf auth login") from error


def _fetch(source: str, target: Path, names: Sequence[str]) -> Path:
    """Some of the files of a folder or a repository, in `target`."""
    if Path(source).is_dir():
        for name in names:
            path = Path(source) / name
            if path.is_symlink() or (name != CARD and not path.is_file()):
                raise CheckpointError(f"{source} has no {name}; give a folder that `push` wrote, or org/repo on the hub")
            if path.is_file():
                shutil.copyfile(path, target / name)
        return target
    if not is_hub_name(source):
        raise CheckpointError(f"{source} is neither a folder nor org/repo on the hub")
    try:
        snapshot_download(source, allow_patterns=list(names), local_dir=target)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise UnavailableError(f"cannot fetch {source} ({type(error).__name__}); check its name and the network") from error
    return target


def _own_entry(path: Path) -> dict[str, Any]:
    """Our entry of a config. Raises `CheckpointError` if it is missing or not what `push` writes."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{path} is larger than any config; it is not read")
        own = json.loads(path.read_text(encoding="utf-8"))[OWN]
        kinds = {"model": str, "r": int, "sha256": str}
        if all(isinstance(own[name], kind) for name, kind in kinds.items()):
            return dict(own)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no config that `push` wrote ({type(error).__name__}); load it with timm") from error
    raise CheckpointError(f"{path} is no config that `push` wrote; load it with timm")


def pull(source: str, out: Path, scratch: Path, *, force: bool = False) -> Path:
    """Fetch a published checkpoint to `out/MODEL_rR.safetensors`, the name that `--checkpoints DIR` looks for.

    `source`: org/repo on the hub, or a folder. `scratch`: an empty folder for the way. The weights must have the digest that
    the config names. Another file of that name is only replaced with `force`; this is known before the weights are fetched.
    Raises `CheckpointError` or `UnavailableError`.
    """
    folder = _fetch(source, scratch, (CONFIG,))
    own = _own_entry(folder / CONFIG)
    model, r = own["model"], own["r"]
    if not model.replace("_", "").isalnum() or not 0 <= r < 10**6:
        raise CheckpointError(f"{source}: its config names the model {model!r:.60} at r = {r!r:.20}; it was tampered with")
    target = out / f"{model}_r{r}.safetensors"
    if target.exists() and not force:
        if target.is_file() and sha256(target) == own["sha256"]:
            return target
        raise CheckpointError(f"{target} is there and is another file; --force replaces it, or choose another --out")
    _fetch(source, scratch, (WEIGHTS,))
    if sha256(folder / WEIGHTS) != own["sha256"]:
        raise CheckpointError(f"{source}: {WEIGHTS} is not the file its config describes; it was changed or cut short")
    read_checkpoint(folder / WEIGHTS)
    out.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    shutil.copyfile(folder / WEIGHTS, partial)
    return partial.replace(target)
