"""`palestra` with FSDP2 on CPU cores over gloo: accelerate itself turns FSDP on where there is an accelerator only."""

import os

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType


def gloo(self: PartialState, *arguments: object, **more: object) -> tuple[str, DistributedType]:
    """Meet over gloo, and say what accelerate says of several GPUs."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return "gloo", DistributedType.MULTI_GPU


if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = gloo  # type: ignore[method-assign]
    from palestra.cli.main import main

    main()
