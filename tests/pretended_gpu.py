"""A GPU that is not there: its tensors lie on the CPU, and mix with the CPU's as little as a GPU's would.

PyTorch hands each operation to `operate`. It refuses what a GPU refuses, tensors of two devices, and notes
what a GPU has to be waited for: a number that is read, a mask whose ones are counted. `python
tests/pretended_gpu.py "train.py --steps 3" ...` runs whole commands on it, and writes gpu.json. There is no
autocast for it: --precision bf16 is for a real one.
"""

import json
import runpy
import sys
import threading
import traceback
from pathlib import Path

import torch

torch.inference_mode = torch.no_grad  # PyTorch makes no tensor of a class of one's own in the first
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from minilm.plumbing import folders, script

aten = torch.ops.aten
NAME, ROOT = "pretended", Path(__file__).parents[1]
READS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.linalg_inv_ex}
READS |= {aten.nonzero, aten.masked_select, aten.bincount, aten.repeat_interleave}  # count
READS |= {aten._unique2, aten.unique_dim, aten.unique_consecutive}
INDEXES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Backend(backend_registration._DummyBackendModule):
    """What autocast asks of a device."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
DEVICE = torch.device(NAME, 0)
waits: list[str] = []  # what a training step has waited for, and where
made = [0]  # tensors of the GPU
NOT_A_STEP = {"evaluate", "save", "finish"}  # of what `train` calls
NOT_A_STEP |= {"update"}  # PPO reads what its policy has written
NOT_A_STEP |= {"to_device"}  # from pinned memory, to a real GPU


class OnGPU(torch.Tensor):
    """A tensor of the GPU; `inner` has its numbers."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        how = dict(dtype=inner.dtype, requires_grad=inner.requires_grad, device=DEVICE)
        how |= dict(strides=inner.stride(), storage_offset=inner.storage_offset())
        tensor = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **how)
        tensor.inner = inner
        made[0] += 1
        return tensor

    def __repr__(self, **_):
        return f"OnGPU({self.inner})"

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return operate(func, args, kwargs or {})


class Operations(TorchDispatchMode):
    """Hands over the operations on tensors of the CPU alone, too: some make tensors of the GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return operate(func, args, kwargs or {})


class Lists(TorchFunctionMode):
    """Lists become tensors of the CPU first: what PyTorch itself makes of them is seen by no mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            place = args[1] if isinstance(args[1], tuple) else (args[1],)
            place = tuple(torch.tensor(p).to(args[0].device) if isinstance(p, list) else p for p in place)
            args = (args[0], place, *args[2:])
        elif func is torch.Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        device = kwargs.pop("device", None) if func in (torch.tensor, torch.as_tensor) else None
        result = func(*args, **kwargs)
        return result if device is None else result.to(device)


def note(what: str) -> None:
    """Note, with its line, what a training step waits for; the last one is always told, and so read."""
    frame, names, line, is_last = sys._getframe(2), set(), "", False
    while frame:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if path == str(ROOT / "minilm" / "training" / "loop.py") and name == "train":
            names.add("a step" if "step" in frame.f_locals else name)
            is_last = frame.f_locals.get("step", 0) + 1 == frame.f_locals["settings"].steps
        names.add(name)
        if not line and str(ROOT / "minilm") in path:
            line = f"{Path(path).relative_to(ROOT)}: {name}"
        frame = frame.f_back
    is_backward = threading.current_thread() is not threading.main_thread()  # it has a thread of its own
    if is_backward or ("a step" in names and not is_last and not NOT_A_STEP & names):
        waits.append(f"{what} in {line or 'a backward pass'}")


def check_index(func, values, indices, new=None, *_) -> None:
    """Note an index that has to be counted or copied; refuse one of another device."""
    on_gpu = isinstance(values, OnGPU)
    given = [index for index in indices if index is not None]
    if not on_gpu and any(isinstance(index, OnGPU) for index in given):
        raise RuntimeError(f"{func}: an index of the GPU for values of the CPU")
    if new is not None and isinstance(new, OnGPU) != on_gpu:
        if new.dim():
            raise RuntimeError(f"{func}: values of another device")
        note(f"{func} of a number of another device")
    if on_gpu and any(index.dtype == torch.bool or not isinstance(index, OnGPU) for index in given):
        note(f"{func} by a mask, or by numbers of the CPU")


def refuse_two_devices(func, args: tuple, kwargs: dict, given: list[torch.Tensor]) -> None:
    """Raise RuntimeError for a tensor of the CPU; a single number may take part where each is taken alone."""
    free = torch.Tag.pointwise in func.tags
    if any(not isinstance(tensor, OnGPU) and not (free and tensor.dim() == 0) for tensor in given):
        raise RuntimeError(f"{func}: tensors of the GPU and of the CPU")
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    for argument in func._schema.arguments:
        tensor, is_written = named.get(argument.name), argument.alias_info and argument.alias_info.is_write
        if is_written and isinstance(tensor, torch.Tensor) and not isinstance(tensor, OnGPU):
            raise RuntimeError(f"{func}: a result of the GPU in a number of the CPU")


def mapped(function, value):
    """Return lists, tuples and dictionaries with the function of each thing in them."""
    if isinstance(value, (list, tuple)):
        return type(value)([mapped(function, item) for item in value])
    if isinstance(value, dict):
        return {name: mapped(function, item) for name, item in value.items()}
    return function(value)


def operate(func, args: tuple, kwargs: dict):
    """Do an operation of PyTorch on tensors of either device."""
    given: list[torch.Tensor] = []
    mapped(lambda item: given.append(item) if isinstance(item, torch.Tensor) else 0, [args, kwargs])
    ours, to = [tensor for tensor in given if isinstance(tensor, OnGPU)], kwargs.get("device")
    on_gpu, packet = bool(ours) if to is None else torch.device(to).type == NAME, func.overloadpacket
    if not (ours or on_gpu):
        return func(*args, **kwargs)
    if packet in INDEXES:
        on_gpu = isinstance(args[0], OnGPU)
        check_index(func, *args)
    elif packet is aten.copy_ or packet is aten._to_copy:
        to_gpu = isinstance(args[0], OnGPU) if packet is aten.copy_ else on_gpu
        if isinstance(given[-1], OnGPU) != to_gpu:
            note(f"{func} from one device to the other")
    elif ours:
        refuse_two_devices(func, args, kwargs, given)
        if packet in READS:
            note(str(func))
    known = {id(tensor.inner): tensor for tensor in ours}

    def plain(item):
        """Return a tensor's numbers, and the CPU for any device."""
        is_device = isinstance(item, torch.device)
        return item.inner if isinstance(item, OnGPU) else torch.device("cpu") if is_device else item

    def pretended(item):
        """Return a result as a tensor of the device; what was changed in place is the tensor it was."""
        if not isinstance(item, torch.Tensor) or not on_gpu:
            return item
        return known[id(item)] if id(item) in known else OnGPU(item)

    return mapped(pretended, func(*mapped(plain, args), **mapped(plain, kwargs)))


def main(commands: list[str]) -> None:
    """Run commands; write how each ended, and what its steps have waited for."""
    script.choose_device, found = lambda name: DEVICE, {}
    from minilm.finetuning import run  # now, as it takes that function over
    from minilm.training import vocabulary_loss

    run.WORLD_VALIDATION, run.WORLD_TEST, plain = 4, 6, vocabulary_loss.SMALL
    for number, command in enumerate(commands):
        waits.clear()
        made[0], vocabulary_loss.SMALL = 0, 0 if number % 2 else plain  # both forms of the loss
        sys.argv = [str(ROOT / "tests/reliability/small_world.py"), *command.split()]
        sys.argv[1] = str(ROOT / sys.argv[1])
        try:
            with Operations(), Lists():
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        except Exception:  # noqa: BLE001 - told, and the next command is tried
            traceback.print_exc()
            code = 1
        folders.unlock()
        found[command] = dict(code=code, waits=sorted({*waits}), n_tensor=made[0])
    Path("gpu.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
