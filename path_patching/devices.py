"""Which device a name means.

>>> resolve_device("auto")  # CUDA where there is some, else the CPU; "cuda" is PyTorch's current CUDA device
'...'
>>> resolve_device("cuda:99")
Traceback (most recent call last):
path_patching.errors.UserError: device cuda:99: PyTorch sees ...; give ...
"""

from __future__ import annotations

import re

import torch

from path_patching.errors import UserError


def check_default_device() -> None:
    """Raise `UserError` if PyTorch puts new tensors elsewhere than on the CPU, where sentences and results are."""
    device = torch.empty(0).device
    if device.type != "cpu":
        raise UserError(
            f"PyTorch makes new tensors on {device}, and sentences and results are on the CPU; leave out "
            "torch.set_default_device and torch.device, and give the engine its device"
        )


def resolve_device(device: str | torch.device) -> str:
    """`device` ("auto", "cpu", "cuda", "cuda:i") as "cpu" or "cuda:i", which is how results and records name it.

    Raises `UserError` if it is unknown or not on this machine.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::([0-9]{1,3}))?", str(device))
    if match is None:
        raise UserError(f"device {device}: give auto, cpu, cuda or cuda:i")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if match[0] == "cpu" or (match[0] == "auto" and not count):
        return "cpu"
    if not count:
        raise UserError(f"device {device}: PyTorch sees no CUDA device; give cpu")
    index = torch.cuda.current_device() if match[1] is None else int(match[1])
    if index >= count:
        seen = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UserError(f"device {device}: PyTorch sees {seen}; give one that it sees, or cpu")
    return f"cuda:{index}"
