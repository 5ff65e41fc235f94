"""fusion-bench's command line, translated: `method= modelpool= taskpool=` and the keys below them."""

import difflib
from collections.abc import Sequence

from fusionbench.compat.fusion_bench.algorithms import ALGORITHMS, KNOWN_AS, WITHOUT_EQUAL, Algorithm
from fusionbench.compat.fusion_bench.keys import TOP, Key
from fusionbench.compat.fusion_bench.pools import DEFAULT_POOL, EIGHT, POOLS, TASKPOOLS, Pool
from fusionbench.errors import ConfigError
from fusionbench.overrides import Override, parse
from fusionbench.registry import methods

__all__ = ["from_fusion_bench"]
_PREFIXES = {"set": "", "add": "+", "force": "++", "delete": "~"}


def from_fusion_bench(overrides: Sequence[str], *, method: str | None = None) -> tuple[list[str], tuple[str, ...]]:
    """Return the overrides in our words, and a note for each that was translated.

    Overrides that are not fusion-bench's come back as they are; of those that are, what has no equal is an error. A
    method named as fusion-bench names it gets fusion-bench's defaults, written out before what the user typed.

    Args:
        overrides: `key=value`, as typed; they may sweep.
        method: the method of the recipe's file, where no override names one.

    Raises:
        ConfigError: naming every key and value that has no equal.
    """
    return _Translator(overrides, method).translate()


class _Translator:
    def __init__(self, overrides: Sequence[str], method: str | None) -> None:
        self.overrides = [(text, _parsed(text)) for text in overrides]
        self.first: list[str] = []
        self.kept: list[str] = []
        self.notes: list[str] = []
        self.problems: list[str] = []
        self.pools: dict[str, str] = {}
        self.named = self._name(method)
        ours = (algorithm for algorithm in ALGORITHMS.values() if algorithm.method == self.named.partition("/")[0])
        self.algorithm = ALGORITHMS.get(self.named) or next(ours, None)

    def translate(self) -> tuple[list[str], tuple[str, ...]]:
        for text, override in self.overrides:
            if override is None:
                self.kept.append(text)
            elif override.key == ("method",):
                self._method(override)
            elif override.key[0] in ("modelpool", "taskpool"):
                self._pool(override)
            else:
                self._translate(override, self._rule(override.key))
        self._suite()
        if self.problems:
            raise ConfigError("\n".join(self.problems))
        return [*self.first, *self.kept], tuple(self.notes)

    def _name(self, method: str | None) -> str:
        """Return the method that the overrides, or else the recipe's file, name, in their words or ours."""
        named = [o.values[0] for _, o in self.overrides if o and o.key == ("method",) and o.values and not o.sweeps]
        return str(named[-1] if named else method)

    def _rule(self, key: tuple[str, ...]) -> Key | None:
        if key[0] == "method" and len(key) == 2:
            return self.algorithm.keys.get(key[1]) if self.algorithm else None
        paths = (".".join(key[:length]) for length in range(len(key), 0, -1))
        return next((TOP[path] for path in paths if path in TOP), None)

    def _translate(self, override: Override, rule: Key | None) -> None:
        """Keep an override, or what its rule makes of it."""
        path = ".".join(override.key)
        if rule is None or (rule.ours == path and self.named not in ALGORITHMS):
            self.kept.append(override.text)
        elif override.values and all(text.lower() in rule.nothing for text in override.spelled):
            self.notes.append(f"{override.text}: asks for nothing here; left out.")
        elif not rule.ours or not override.values:
            self.problems.append(
                f"{override.text}: fusion-bench's {path} has no equal; {rule.else_say or 'leave it out'}."
            )
        else:
            try:
                texts = [rule.read(text) for text in override.spelled]
            except ValueError as error:
                self.problems.append(f"{override.text}: {error}.")
                return
            if rule.ours == path and texts == list(override.spelled):
                self.kept.append(override.text)
                return
            values = f"choice({texts[0]})" if override.sweeps and len(texts) == 1 else ",".join(texts)
            self.kept.append(f"{_PREFIXES[override.action]}{rule.ours}={values}")
            self.notes.append(f"{override.text} → {self.kept[-1]}")

    def _method(self, override: Override) -> None:
        if override.sweeps or not override.values:
            for text in override.spelled:
                if text in ALGORITHMS and ALGORITHMS[text].method != text:
                    ours = ALGORITHMS[text].method
                    self.problems.append(f"{override.text}: in a sweep use our words; {text} is {ours} here.")
            self.kept.append(override.text)
            return
        name = str(override.values[0])
        group = name.partition("/")[0]
        known = KNOWN_AS.get(name) or KNOWN_AS.get(group)
        theirs = ALGORITHMS.get(name)
        if theirs is not None and theirs.method != name:
            self._write_out(override.text, theirs)
        elif group in WITHOUT_EQUAL:
            self.problems.append(
                f"{override.text}: fusion-bench's {name} is not a method here; {WITHOUT_EQUAL[group]}."
            )
        elif theirs is None and known not in (None, name):
            see = f"see `fusionbench show {known}`" if known in methods else "this version does not have it yet"
            self.problems.append(f"{override.text}: fusion-bench's {name} is {known} here, with other keys; {see}.")
        else:
            self.kept.append(override.text)

    def _write_out(self, text: str, theirs: Algorithm) -> None:
        """Name our method and set what theirs sets by default, where an override of the user's still wins."""
        written = [f"method={theirs.method}"]
        if theirs.method in methods and "fusion_bench" in (methods[theirs.method].compat or {}):
            written.append("method.compat=fusion_bench")
        written += [f"method.{key}={value}" for key, value in theirs.sets.items()]
        written += [f"{theirs.keys[key].ours}={theirs.keys[key].read(value)}" for key, value in theirs.defaults.items()]
        self.first += written
        self.notes.append(f"{text} → {' '.join(written)}")

    def _pool(self, override: Override) -> None:
        group, *below = override.key
        if not below and override.values and not override.sweeps:
            self.pools[group] = str(override.values[0])
        elif below[:1] == ["models"] and len(below) == 2 and override.action != "delete":
            ours = "base" if below[1] == "_pretrained_" else f"++experts.{below[1]}"
            self.kept.append(f"{ours}={override.text.partition('=')[2]}")
            self.notes.append(f"{override.text} → {self.kept[-1]}")
        else:
            instead = "suite.experts=[…] chooses among a suite's experts, experts.NAME=REF adds one"
            self.problems.append(f"{override.text}: fusion-bench's {'.'.join(override.key)} has no equal; {instead}.")

    def _suite(self) -> None:
        """Name the suite that holds the models and the tasks of the pools that were named."""
        if not self.pools:
            return
        if any(override and override.key[0] == "suite" for _, override in self.overrides):
            self.problems.append("modelpool= and taskpool= name what suite= names; give one or the other.")
        name = self.pools.get("modelpool", DEFAULT_POOL)
        pool = POOLS.get(name)
        if pool is None:
            close = difflib.get_close_matches(name, POOLS, n=1)
            hint = f"did you mean {close[0]}?" if close else "see `fusionbench list suites`."
            self.problems.append(f"modelpool={name} has no equal; {hint} Or give base=REF and experts.NAME=REF.")
            return
        written = [f"suite={pool.suite}", *self._tasks(name, pool)]
        self.first += written
        self.notes.append(f"{' '.join(f'{key}={value}' for key, value in self.pools.items())} → {' '.join(written)}")

    def _tasks(self, name: str, pool: Pool) -> list[str]:
        """Return the overrides that choose the experts and tasks of the pools among their suite's."""
        experts = [f"suite.experts={_listed(pool.experts)}"] if pool.experts else []
        if "taskpool" not in self.pools:
            return experts
        taskpool = self.pools["taskpool"]
        tasks = TASKPOOLS.get(taskpool)
        if tasks is None or pool.suite not in tasks.suites or not {*pool.experts} <= {*(tasks.tasks or pool.experts)}:
            merge = "; to fuse without evaluating use `fusionbench merge`" if taskpool == "dummy" else ""
            self.problems.append(f"taskpool={taskpool} has no equal beside modelpool={name}{merge}.")
            return experts
        split = [f"tasks.split={tasks.split}"] if tasks.split != "test" else []
        if pool.experts:
            rest = tuple(task for task in tasks.tasks if task not in pool.experts)
            return [*experts, f"suite.unseen={_listed(rest)}", *split]
        return [*([] if tasks.tasks in ((), EIGHT) else [f"tasks.seen={_listed(tasks.tasks)}"]), *split]


def _listed(names: Sequence[str]) -> str:
    return f"[{','.join(names)}]"


def _parsed(text: str) -> Override | None:
    """Return an override, or None for one that cannot be read, which whoever applies it will say."""
    try:
        return parse(text)
    except ConfigError:
        return None
