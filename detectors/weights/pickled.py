"""Read pickles as data: nothing in them is imported, called or built but containers, numbers, text and tensors to be.

A pickle is a program for a stack machine whose words `GLOBAL` and `REDUCE` call whatever they name. This machine knows
no such thing: a name becomes a `Name`, a call a `Call`, and what a reader here understands (tensors, ordered
dictionaries, numbers of NumPy) is recognized by name afterwards. Everything else stays an inert `Call` that says what
it would have been. Imports no torch.

Source:
    CPython, Lib/pickletools.py: the words of protocols 0 to 5.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, cast

MAX_WORDS = 4_000_000  # of one pickle: a state dict of a thousand tensors has fifty thousand
# What no weights ever need: a file that calls it is refused, although nothing would run.
PROGRAMS = {
    "asyncio", "bdb", "code", "commands", "ctypes", "importlib", "nt", "os", "pdb", "pip", "posix", "pty", "runpy",
    "shutil", "socket", "subprocess", "sys", "timeit", "webbrowser",
}  # fmt: skip
RUNNING = {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("__import__", "apply", "breakpoint", "compile", "eval", "exec", "execfile", "input", "open", "print")
}
_MARK = object()


class PickleError(ValueError):
    """The bytes are no pickle, or one that says nonsense."""


@dataclass(frozen=True)
class Name:
    """What a pickle would import, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


@dataclass(eq=False)
class Call:
    """What a pickle would build, not built.

    Attributes:
        what: it calls, a `Name` or anything else that the pickle puts there.
        args: of the call.
        state: given to the object afterwards, None without.
        items: appended or set afterwards.
    """

    what: Any
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return what it calls, '?' where that is no name."""
        return str(self.what) if isinstance(self.what, Name) else "?"


@dataclass(frozen=True, eq=False)
class Persistent:
    """What a pickle refers to outside itself, e.g. a storage of torch."""

    identity: Any


Reduce = Callable[[Name, tuple[Any, ...]], Any]  # returns NotImplemented where it knows no such call


class Readable(Protocol):
    """What a pickle is read from."""

    def read(self, count: int, /) -> bytes:
        """Return so many bytes, fewer at the end."""

    def readline(self) -> bytes:
        """Return the bytes up to the end of a line."""

    def tell(self) -> int:
        """Return the place of the next byte."""


def load_pickle(file: Readable, reduce: Reduce = lambda name, args: NotImplemented) -> Any:
    """Return what a pickle holds.

    Args:
        file: at its first byte; left behind its last.
        reduce: recognizes calls.

    Raises:
        PickleError: the bytes are no pickle, or it uses its stack wrongly.
    """
    machine = _Machine(reduce)
    try:
        for number, (word, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", file))):
            if number >= MAX_WORDS:
                raise PickleError(f"more than {MAX_WORDS:,} words")
            machine.step(word.name, argument)
        return machine.stack[-1]
    except PickleError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise PickleError(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from error


class _Machine:
    """The stack machine of pickles."""

    def __init__(self, reduce: Reduce) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.reduce = reduce

    def step(self, word: str, argument: Any) -> None:
        """Do one word."""
        if word in _PASSED_BY:
            return
        if word in _VALUES:
            self.stack.append(_VALUES[word])
        elif word in _PUSHED:
            self.stack.append(argument)
        elif word in _EMPTY:
            self.stack.append(_EMPTY[word]())
        elif word in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else int(argument)] = self._top()
        elif word in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        else:
            method = getattr(self, f"_do_{word.lower()}", None)
            if method is None:
                raise PickleError(f"the word {word}, which no checkpoint has")
            method(argument)

    # ---- the stack ----

    def _top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise PickleError("a mark where a value is expected")
        return self.stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self.stack.pop()
        return value

    def _above_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise PickleError("no mark")
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def _do_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _do_pop(self, _: Any) -> None:
        self.stack.pop()

    def _do_pop_mark(self, _: Any) -> None:
        self._above_mark()

    def _do_dup(self, _: Any) -> None:
        self.stack.append(self._top())

    def _do_stop(self, _: Any) -> None:
        self.stack = [self._top()]

    # ---- containers ----

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._above_mark()))

    def _do_tuple1(self, _: Any) -> None:
        self.stack.append((self._pop(),))

    def _do_tuple2(self, _: Any) -> None:
        second, first = self._pop(), self._pop()
        self.stack.append((first, second))

    def _do_tuple3(self, _: Any) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self.stack.append((first, second, third))

    def _do_list(self, _: Any) -> None:
        self.stack.append(self._above_mark())

    def _do_frozenset(self, _: Any) -> None:
        self.stack.append(Call(Name("builtins", "frozenset"), items=self._above_mark()))

    def _do_dict(self, _: Any) -> None:
        items = self._above_mark()
        self.stack.append({})
        self._set(items)

    def _do_append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _do_appends(self, _: Any) -> None:
        self._extend(self._above_mark())

    def _do_additems(self, _: Any) -> None:
        self._extend(self._above_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Call):
            target.items += items
        elif isinstance(target, list):
            target += items
        else:
            raise PickleError(f"items are added to a {type(target).__name__}")

    def _do_setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _do_setitems(self, _: Any) -> None:
        self._set(self._above_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Call):
            target.items += items
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleError(f"keys are set in a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if _is_plain_key(key) else Call(Name("builtins", "key"), (key,))] = value

    # ---- what would be imported, called and built ----

    def _do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Name(module, name))

    def _do_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("a name that is no text")
        self.stack.append(Name(module, name))

    def _do_reduce(self, _: Any) -> None:
        args, what = self._pop(), self._pop()
        self.stack.append(self._called(what, args))

    def _do_newobj(self, _: Any) -> None:
        self._do_reduce(None)

    def _do_newobj_ex(self, _: Any) -> None:
        self._pop()  # keywords
        self._do_reduce(None)

    def _do_inst(self, argument: str) -> None:
        args = self._above_mark()
        self._do_global(argument)
        self.stack.append(self._called(self._pop(), tuple(args)))

    def _do_obj(self, _: Any) -> None:
        what, *args = self._above_mark()
        self.stack.append(self._called(what, tuple(args)))

    def _called(self, what: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise PickleError(f"a call with a {type(args).__name__} of arguments")
        if isinstance(what, Name):
            if what.module.partition(".")[0] in PROGRAMS or str(what) in RUNNING:
                raise PickleError(f"it wants to run {what}, which is not loaded")
            found = self.reduce(what, args)
            if found is not NotImplemented:
                return found
        return Call(what, args)

    def _do_build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Call):
            target.state = state
        # Attributes of dictionaries (an OrderedDict's `_metadata`) are nothing that is read.

    def _do_persid(self, argument: Any) -> None:
        self.stack.append(Persistent(argument))

    def _do_binpersid(self, _: Any) -> None:
        self.stack.append(Persistent(self._pop()))


def _is_plain_key(key: Any) -> bool:
    """Return whether hashing a key is neither an error nor a deep recursion."""
    if isinstance(key, tuple):
        return all(isinstance(part, str | bytes | int | float | None) for part in key)
    return isinstance(key, str | bytes | int | float | Name | Call | Persistent | None)


def calls_in(value: Any, limit: int = 1000) -> Iterator[str]:
    """Yield the names of what would be built, of containers as deep as they are, `limit` values at most."""
    waiting, seen = [value], 0
    while waiting and seen < limit:
        found = waiting.pop()
        seen += 1
        if isinstance(found, Call):
            yield found.name
        elif isinstance(found, dict):
            waiting += list(found.values())[:limit]
        elif isinstance(found, list | tuple):
            waiting += list(found)[:limit]


_PASSED_BY = {"PROTO", "FRAME", "READONLY_BUFFER"}
_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Call(Name("builtins", "set")),
}
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8",
}  # fmt: skip
