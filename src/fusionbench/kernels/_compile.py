"""The compiler of the kernels' inner loops: Numba makes machine code once a machine, later starts do without Numba.

Importing Numba and its first look-up in its own cache take half a second, a third of a short merge. Here the code of
each function is kept as an object file, which llvmlite, a part of Numba, loads in milliseconds.
"""

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from fusionbench.cache import cache_folder

F = TypeVar("F", bound=Callable[..., Any])
OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Strict arithmetic (no fast-math), division as IEEE has it, no memory from within, no entry for Python objects."""
LOCK = threading.RLock()
LOG = logging.getLogger(__name__)
NUMBER, POINTERS = -1, -2
"""In the place of an array's dimensions."""


class Pointers(NamedTuple):
    """Where several vectors of one kind of number begin: `addresses` `(vectors,)` uint64.

    A compiled function reads entry i of vector v as `pointers[v][i]`; nothing keeps it within bounds. The vectors are
    held, since some lie in memory that goes with them.
    """

    addresses: np.ndarray[Any, np.dtype[np.uint64]]
    dtype: np.dtype[Any]
    vectors: Sequence[np.ndarray[Any, Any]]


def pointers_to(vectors: Sequence[np.ndarray[Any, Any]], dtype: np.dtype[Any]) -> Pointers:
    """Return where vectors begin whose bits are read as numbers of a kind."""
    return Pointers(np.array([vector.ctypes.data for vector in vectors], np.uint64), dtype, vectors)


class Kind(NamedTuple):
    """What an argument is: a kind of number, and for arrays how many dimensions and whether entries are adjacent."""

    dtype: np.dtype[Any]
    dimensions: int = NUMBER
    contiguous: bool = True


class Code(NamedTuple):
    """Machine code as it is kept: the function's symbol, what it returns, and the object file."""

    symbol: str
    returns: str | None
    binary: bytes


def compiled(function: F) -> F:
    """Return `function` compiled for each kind of arguments it is called with, run without Python's lock.

    It takes arrays and numbers by position, returns a number or nothing, makes no arrays, and may call other compiled
    functions.
    """
    return cast(F, Compiled(cast(FunctionType, function)))


class Compiled:
    """A function with its machine code for each kind of arguments."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self._loaded: dict[tuple[Any, ...], Callable[[Sequence[Any]], Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run the machine code; it is loaded, or made, where these kinds of arguments are new."""
        # This runs for every tile: a key of plain tuples costs a tenth of what one of `Kind` does.
        key = tuple([(a.dtype, a.ndim, a.flags.c_contiguous) if type(a) is np.ndarray else _name(a) for a in arguments])
        run = self._loaded.get(key)
        if run is None:
            kinds = tuple(map(_kind, arguments))
            with LOCK:
                run = self._loaded.get(key) or _callable(_code(self, kinds), kinds)
                self._loaded[key] = run
        return run(arguments)

    def fingerprint(self) -> str:
        """Return a digest of the code, and of the constants and functions that it uses."""
        code = self.function.__code__
        values = {name: v.fingerprint() if isinstance(v, Compiled) else repr(v) for name, v in self._used().items()}
        constants = [repr(value) for value in code.co_consts]
        return hashlib.blake2b(repr((code.co_code.hex(), constants, code.co_names, values)).encode()).hexdigest()

    def dispatcher(self) -> Any:
        """Return Numba's form of the function."""
        from numba import njit

        values = {name: v.dispatcher() if isinstance(v, Compiled) else v for name, v in self._used().items()}
        module = {"__name__": self.function.__module__}
        return njit(**OPTIONS)(FunctionType(self.function.__code__, values | module, self.function.__name__))

    def _used(self) -> dict[str, Any]:
        """Return the constants, modules and functions that the code names."""
        known = self.function.__globals__
        return {name: known[name] for name in self.function.__code__.co_names if name in known}


NUMBERS = {bool: Kind(np.dtype(bool)), int: Kind(np.dtype(np.int64)), float: Kind(np.dtype(np.float64))}


def _name(argument: Any) -> Any:
    return argument.dtype if type(argument) is Pointers else type(argument)


def _kind(argument: Any) -> Kind:
    if isinstance(argument, Pointers):
        return Kind(argument.dtype, POINTERS)
    if isinstance(argument, np.ndarray):
        return Kind(argument.dtype, argument.ndim, argument.flags.c_contiguous)
    return Kind(argument.dtype) if isinstance(argument, np.generic) else NUMBERS[type(argument)]


def _code(function: Compiled, kinds: tuple[Kind, ...]) -> Code:
    """Return a function's machine code from the cache, where it is put if it is not there and there is room for it."""
    key = repr((function.fingerprint(), kinds, _machine(), sorted(OPTIONS.items())))
    name = f"{function.function.__name__}-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}"
    try:
        file = cache_folder("kernels") / name
    except (OSError, RuntimeError) as error:
        LOG.warning("Compiled code is not kept, so that each start compiles again: %s", error)
        return _machine_code(function, kinds)
    return _kept(file) or _keep(file, _machine_code(function, kinds))


def _machine() -> tuple[str, ...]:
    """Return what machine code is for: the compiler's versions, the processor and what it can do."""
    import llvmlite
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    return version("numba"), llvmlite.__version__, llvm.get_process_triple(), llvm.get_host_cpu_name(), features


def _kept(file: Path) -> Code | None:
    """Return what a file holds; None where it is missing or damaged."""
    try:
        head, binary = file.read_bytes().split(b"\n", 1)
        said = json.loads(head)
        whole = said["digest"] == hashlib.blake2b(binary).hexdigest()
        return Code(said["symbol"], said["returns"], binary) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(file: Path, code: Code) -> Code:
    """Put code into the cache where that can be done; return it."""
    digest = hashlib.blake2b(code.binary).hexdigest()
    head = json.dumps({"symbol": code.symbol, "returns": code.returns, "digest": digest})
    scratch = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        scratch.write_bytes(head.encode() + b"\n" + code.binary)
        os.replace(scratch, file)
    except OSError as error:
        LOG.warning("Compiled code is not kept, so that each start compiles again: %s", error)
        with contextlib.suppress(OSError):
            scratch.unlink()
    return code


def _machine_code(function: Compiled, kinds: tuple[Kind, ...]) -> Code:
    """Compile a function with Numba."""
    import llvmlite.binding as llvm
    from numba import types

    signature = tuple(map(_type, kinds))
    dispatcher = function.dispatcher()
    dispatcher.compile(signature)
    found = dispatcher.overloads[signature]
    module = llvm.parse_assembly(dispatcher.inspect_llvm(signature))
    returns = None if found.signature.return_type == types.none else str(found.signature.return_type)
    return Code(found.fndesc.llvm_func_name, returns, _target().emit_object(module))


def _type(kind: Kind) -> Any:
    """Return Numba's type of an argument."""
    from numba import from_dtype, types

    number = from_dtype(kind.dtype)
    if kind.dimensions == POINTERS:
        return types.CPointer(types.CPointer(number))
    layout = "C" if kind.contiguous else "A"
    return number if kind.dimensions == NUMBER else types.Array(number, kind.dimensions, layout)


def _target() -> Any:
    """Return LLVM's target: this machine."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


def _callable(code: Code, kinds: tuple[Kind, ...]) -> Callable[[Sequence[Any]], Any]:
    """Load machine code; return a function that calls it with a sequence of arguments.

    Numba's functions take where to put the result and the exception, then arrays as two owners (none here), entries,
    bytes of one, address, shape and strides, pointers as one address, and numbers as they are; they return 0.
    """
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.binary))
    engine.finalize_object()
    number, address = ctypes.c_ssize_t, ctypes.c_void_p
    types: list[Any] = [address, address]
    for kind in kinds:
        if kind.dimensions >= 0:
            types += [address, address, number, number, address, *[number] * (2 * kind.dimensions)]
        else:
            types.append(address if kind.dimensions == POINTERS else np.ctypeslib.as_ctypes_type(kind.dtype))
    native = ctypes.CFUNCTYPE(ctypes.c_int, *types)(engine.get_function_address(code.symbol))
    result = np.ctypeslib.as_ctypes_type(np.dtype(code.returns or "int64"))

    def run(arguments: Sequence[Any]) -> Any:
        flat: list[Any] = []
        for argument in arguments:
            if type(argument) is np.ndarray:
                flat += (None, None, argument.size, argument.itemsize, argument.ctypes.data)
                flat += argument.shape
                flat += argument.strides
            elif type(argument) is Pointers:
                flat.append(argument.addresses.ctypes.data)
            else:
                flat.append(argument.item() if isinstance(argument, np.generic) else argument)
        found, exception = result(), address()
        status = native(ctypes.addressof(found), ctypes.addressof(exception), *flat)
        assert status == 0, f"{code.symbol} ended with the status {status}"
        return None if code.returns is None else found.value

    # The code lives as long as its engine.
    run.__dict__["engine"] = engine
    return run
