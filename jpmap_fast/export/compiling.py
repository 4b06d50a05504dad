"""What surrounds the compiler: how it is told to leave every operator to torch, and its words."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._inductor.config
from torch._inductor import cpp_builder, cpu_vec_isa

# Every operator as torch runs it, none compiled anew or fused with another: the bits are those of
# Python. Nothing is made for the processor at hand, so that others run it.
_OPTIONS: dict[str, Any] = {
    "fallback_by_default": True,
    "selective_decompose": True,
    "reorder_for_peak_memory": False,
    "use_pre_grad_passes": False,
    "use_joint_graph_passes": False,
    "use_post_grad_passes": False,
    "layout_optimization": False,
    "always_keep_tensor_constants": True,
    "allow_buffer_reuse": False,
    "compile_threads": 1,
    "cpp.march": "",
    "cpp.simdlen": 1,
    # By its name, before the compiler's own -lstdc++: some compilers link its code instead, and a
    # package with facets of its own does not understand those of torch's locale, and crashes.
    "aot_inductor.custom_op_libs": [":libstdc++.so.6"],
}
_NEEDED = ("fallback_by_default", "selective_decompose")

# Operators that torch takes apart in Python on the way to a graph, whatever the compiler is told.
_TAKEN_APART = (torch.ops.aten.upsample_bilinear2d.default,)

_LOGGERS = ("torch._inductor", "torch.export", "torch.utils.cpp_extension")


def options(metadata: dict[str, str]) -> dict[str, Any]:
    """Settings of AOTInductor for a package with such metadata, those that this torch has.

    Raises:
        RuntimeError: it lacks a setting without which the bits would be others.
    """
    known = torch._inductor.config.get_config_copy()
    missing = [name for name in _NEEDED if name not in known]
    if missing:
        raise RuntimeError(
            f"export: expected a torch whose compiler knows {missing[0]}, got {torch.__version__}; "
            "upgrade it with pip install -U torch"
        )
    found = {name: value for name, value in _OPTIONS.items() if name in known}
    return {**found, "aot_inductor.metadata": metadata}


@contextmanager
def as_torch_runs_them() -> Iterator[None]:
    """Inside, operators are recorded as they are: in this process, so one export at a time."""
    key = torch._C.DispatchKey.Autograd  # type: ignore[attr-defined]
    parts = {operator: operator.py_kernels.pop(key, None) for operator in _TAKEN_APART}
    for operator in parts:
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator, part in parts.items():
            if part is not None:
                operator.py_kernels[key] = part
            operator._dispatch_cache.clear()


@contextmanager
def for_any_processor() -> Iterator[None]:
    """Inside, torch compiles for no processor in particular, and does not look at the one at hand.

    Which instructions it has is of no use, see ``_OPTIONS``, and to know takes torch 2.11 six
    programs, of which each is loaded by an interpreter of its own. A torch without the setting
    ``cpp.march`` has the compiler use all of them.
    """
    find_out, flags = cpu_vec_isa.valid_vec_isa_list, cpp_builder._get_optimization_cflags

    def without_native(*args: Any, **options: Any) -> tuple[list[str], list[str]]:
        compiler, linker = flags(*args, **options)
        return [flag for flag in compiler if not flag.endswith("=native")], linker

    cpu_vec_isa.valid_vec_isa_list = list  # type: ignore[assignment]
    cpp_builder._get_optimization_cflags = without_native
    try:
        yield
    finally:
        cpu_vec_isa.valid_vec_isa_list = find_out
        cpp_builder._get_optimization_cflags = flags


@contextmanager
def quietly() -> Iterator[None]:
    """Without a warning for each operator that is left to torch, as all are."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
