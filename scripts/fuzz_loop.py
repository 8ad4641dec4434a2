"""What fuzzers of files share: inputs one after the other until the time is over, limits, findings that are kept."""

from __future__ import annotations

import argparse
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

FINDINGS = Path(__file__).resolve().parents[1] / "build" / "fuzz" / "findings"

_WAIT_SECONDS = 60  # by the clock: a file that never ends takes no processor time

Inputs = Callable[[random.Random], Iterator[tuple[str, bytes]]]
Check = Callable[[Path], str]


class HangError(BaseException):
    """An input took longer than it may."""


def _hang(*_: object) -> None:
    raise HangError


def limited(check: Check, seconds: float) -> Check:
    """Return a check that raises `HangError` where an input takes more processor time, or waits for ever."""

    def checked(path: Path) -> str:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(_WAIT_SECONDS)
        try:
            return check(path)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)

    return checked


def main(what: str, about: str, inputs: Inputs, check: Check, *, seconds: float, memory_gib: int) -> int:
    """Fuzz, and return 1 if something was found.

    Args:
        what: the inputs are, one word; findings are called by it.
        about: the help.
        inputs: yields (suffix, bytes) of files without end.
        check: returns what became of a file; whatever escapes it is a finding.
        seconds: of processor time for one file.
        memory_gib: that the process may take beside what it has.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=Path, help="read one file and stop")
    options = parser.parse_args()
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _hang)
    check = limited(check, seconds)
    if options.replay:
        print(check(options.replay))
        return 0
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (memory_gib << 30),) * 2)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    found: Counter[str] = Counter()
    end = time.monotonic() + 60 * options.minutes
    for suffix, data in inputs(random.Random(options.seed)):
        if time.monotonic() > end:
            break
        path = FINDINGS / f"input-{what}-{options.seed}{suffix}"
        path.write_bytes(data)
        try:
            counts[check(path)] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            kind = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            found[kind] += 1
            if found[kind] == 1:
                kept = path.rename(FINDINGS / f"{what}-{options.seed}-{len(found)}{suffix}")
                print(f"finding: {kind} ({kept})", flush=True)
    print(f"{counts.total() + found.total():,} files: {dict(counts)}, {len(found)} kinds of findings")
    return int(bool(found))


def mutated(data: bytes, words: tuple[bytes, ...], chance: random.Random) -> bytes:
    """Return bytes with one to six changes: of bits, of bytes, words of the language put in, parts doubled or cut."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        place = chance.randrange(len(out) + 1)
        match chance.randrange(7):
            case 0 if place < len(out):
                out[place] = chance.randrange(256)
            case 1 if place < len(out):
                out[place] ^= 1 << chance.randrange(8)
            case 2:
                del out[place : place + chance.randrange(1, 9)]
            case 3:
                out[place:place] = chance.choice(words)
            case 4:
                word = chance.choice(words)
                out[place : place + len(word)] = word
            case 5 if len(out) > 40:
                start = chance.randrange(len(out))
                out[place:place] = out[start : start + chance.randrange(1, 30)]
            case _ if chance.random() < 0.1:
                del out[place:]
    return bytes(out)
