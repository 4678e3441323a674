"""This process among those that train together (torchrun starts them), and the few values they exchange."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmeeto_bench.errors import UnavailableError, UsageError


@dataclass(frozen=True)
class World:
    """One process among those that train together."""

    device: torch.device  # where this process trains
    rank: int = 0  # its number; rank 0 writes and prints
    size: int = 1  # number of processes

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and prints for the user."""
        return self.rank == 0

    def average(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes, fp64 where there are several."""
        if self.size == 1:
            return value
        total = value.detach().double().clone()
        dist.all_reduce(total)
        return total / self.size

    def total(self, counts: Tensor) -> Tensor:
        """Element-wise sum over the processes, on the CPU."""
        if self.size > 1:
            counts = counts.to(self.device)
            dist.all_reduce(counts)
        return counts.cpu()

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - a predicate on one value
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        return bool(self.total(torch.tensor([int(flag)]))[0])

    def union(self, names: Iterable[str]) -> tuple[str, ...]:
        """All names that any process gives, sorted."""
        everyone: list[Any] = [set(names)]
        if self.size > 1:
            everyone = [None] * self.size
            dist.all_gather_object(everyone, set(names))
        return tuple(sorted(set().union(*everyone)))

    def wait(self) -> None:
        """Wait until all processes have arrived."""
        if self.size > 1:
            dist.barrier()

    def replicate(self, model: nn.Module) -> nn.Module:
        """The module to call in training: averages gradients over the processes, if there are several."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device.index] if self.device.type == "cuda" else None)


def choose_device(name: str) -> torch.device:
    """`auto` is this process's GPU, or the CPU where there is none. Raises `UnavailableError` for a missing GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device is auto, cpu or cuda, not {name!r}")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available() or local >= torch.cuda.device_count():
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise UnavailableError(
            f"process {local} of this machine needs a GPU of its own, but there are {found}; start fewer, or --device cpu"
        )
    return torch.device("cuda", local)


def _join(backend: str) -> None:
    """Connect to the other processes, also after torchrun has restarted them because one died.

    torchrun lends its own store, which still holds the addresses of the processes before a restart: a process that reads
    one hangs (pytorch issue 135712). Each restart gets a prefix of its own there. Over several machines, however, each agent
    counts its own restarts, so the store must not be shared. Raises `UsageError` if it is.
    """
    setting = os.environ
    if setting.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or setting.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        dist.init_process_group(backend)
        return
    if setting.get("GROUP_WORLD_SIZE", "1") != "1":
        raise UsageError(
            "--max-restarts over several machines hangs with torchrun's shared store; "
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on each of them"
        )
    rank, size = int(setting["RANK"]), int(setting["WORLD_SIZE"])
    lent = dist.TCPStore(setting["MASTER_ADDR"], int(setting["MASTER_PORT"]), size, is_master=False)
    store = dist.PrefixStore(f"rmeeto_bench/restart_{setting.get('TORCHELASTIC_RESTART_COUNT', '0')}", lent)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


@contextmanager
def world(device: str) -> Iterator[World]:
    """This process's `World`. Under torchrun the processes connect (NCCL on GPUs, gloo on CPUs) and disconnect at the end."""
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(chosen)
        return
    _join("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(chosen, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
