"""The command line's `key=value`: the override grammar that Hydra users know, read without Hydra.

    method.scale=0.3      set                        method=ties,dare            one run each (with -m)
    +experts.math=REF     add what is not there      seed=range(0,5)             one run each (with -m)
    ++experts.math=REF    set or add                 seed=choice(3,5)            one run each (with -m)
    ~experts.math         remove                     tasks.seen=[digits,math]    a list
    base=null             nothing                    experts={math: REF}         a mapping
    base='a, b'           text as it stands          output.folder=out/${seed}   another key's value

Values stay text: the type of the key reads them, so `no` is text where text is expected, false where a truth value is.
`method=` and `suite=` replace the whole group and are applied first, whatever their place. `launcher=ray` is short for
`runtime.launcher=ray`, and `launcher.workers=8` for `runtime.launcher.workers=8`.

Where Hydra 1.3 differs: it refuses `~`, `=`, `;`, `#`, `&` and letters beyond ASCII in bare values, and quotes around
the keys of a mapping; it merges a mapping into the one that is there (here it takes its place), lets a repeated key in
a mapping win (here an error), yields 0.7000000000000001 in `range(0,1,0.1)` (here 0.7), lets an empty range make no run
(here an error), wants `+` for all that the file does not set (here for experts only: the schema knows the other keys),
and has list positions as keys, `glob`, `interval`, `sort`, `shuffle`, casts, `key@package` (here refused by name).
"""

from fusionbench.overrides.grammar import Override, Value, parse, sweep
from fusionbench.overrides.interpolation import interpolate
from fusionbench.overrides.layers import apply, expand_shorthands

__all__ = ["Override", "Value", "apply", "expand_shorthands", "interpolate", "parse", "sweep"]
