"""Training by several processes, which torchrun starts: one group, the same network in each, a share of every
batch each.

Without torchrun, each function does what is right for a single process.
"""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist


@contextlib.contextmanager
def process_group(device: str = "auto") -> Iterator[None]:
    """Inside, the processes that torchrun started form one group: NCCL if `device` is CUDA (or auto, and CUDA
    is present), else Gloo. ValueError if a machine has fewer GPUs than processes."""
    if not launched():
        yield
        return
    on_cuda = torch.cuda.is_available() and (device == "auto" or device.startswith("cuda"))
    if on_cuda:
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if processes > gpus:
            raise ValueError(
                f"device = {device!r} must be cpu for {processes} processes on a machine of {gpus} GPUs."
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield
        dist.barrier()  # no process leaves while another still sends
    finally:
        dist.destroy_process_group()


def launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def leads() -> bool:
    """Whether this is the first process that torchrun started, or the only one; also outside the group."""
    return not launched() or os.environ["RANK"] == "0"


def rank_and_world() -> tuple[int, int]:
    """This process's number in its group and the number of processes; (0, 1) without a group."""
    grouped = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)


def from_leader(value):
    """The first process's `value`, in every process."""
    if rank_and_world()[1] == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def sum_over_processes_(*tensors: torch.Tensor) -> None:
    """Sums each tensor over the processes, in place."""
    if rank_and_world()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def largest_over_processes(number: int, device: torch.device) -> int:
    """The largest `number` that any process has."""
    if rank_and_world()[1] == 1:
        return number
    held = torch.tensor([number], device=device)
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return int(held)


def synchronise(network: torch.nn.Module) -> None:
    """After backward: sums the gradients over the processes, and gives all of them the first one's buffers,
    as LEA's codebook replaces idle words by inputs, which differ. Gradients travel as one message: a message
    each costs more than what is in it."""
    if rank_and_world()[1] == 1:
        return
    for buffer in network.buffers():
        dist.broadcast(buffer, 0)
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message)
    sums = message.split([gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, sums, strict=True):
        gradient.copy_(total.view_as(gradient))
