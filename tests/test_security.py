"""What is never written in the source: calls that would run what a file or a user says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "fusionbench"
RUNNING = {"eval", "exec", "__import__"}
UNPICKLING = {"pickle.load", "pickle.loads", "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads"}
SAFE_LOADERS = {"_TextLoader", "yaml.SafeLoader", "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"}
OF_PACKAGES = ("suites/mini/",)
"""Where models come from installed packages that the suites are built of, not from a user's folder."""


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call of the source: where, what is called, and the call."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                place = f"{path.relative_to(SOURCE).as_posix()}:{node.lineno}"
                yield place, ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(given.value) for given in call.keywords if given.arg == name), None)


def is_forbidden(called: str, call: ast.Call, place: str) -> bool:
    """Tell whether a call could run what it reads."""
    match called:
        case "torch.load":
            return keyword(call, "weights_only") != "True"
        case "yaml.load" | "yaml.load_all":
            return not {*map(ast.unparse, call.args[1:]), keyword(call, "Loader")} & SAFE_LOADERS
        case "yaml.unsafe_load" | "yaml.full_load" | "os.system":
            return True
        case _ if called.endswith(".from_pretrained"):
            return keyword(call, "trust_remote_code") != "False" and not place.startswith(OF_PACKAGES)
        case _:
            remote = keyword(call, "trust_remote_code") not in (None, "False")
            shell = keyword(call, "shell") not in (None, "False")
            return called in RUNNING | UNPICKLING or remote or shell


def test_nothing_that_is_read_is_run() -> None:
    assert [f"{place} {called}" for place, called, call in calls() if is_forbidden(called, call, place)] == []


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)", "exec(x)", "pickle.load(file)", "torch.load(file)", "torch.load(file, weights_only=False)",
        "yaml.load(file)", "yaml.load(file, yaml.Loader)", "yaml.load(file, Loader=yaml.FullLoader)",
        "yaml.full_load(file)", "os.system(x)",
        "subprocess.run(x, shell=True)", "AutoModel.from_pretrained(x)", "f(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=asked)",
    ],
)  # fmt: skip
def test_each_of_them_would_be_found(text: str) -> None:
    """Else the test above could not fail."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert is_forbidden(ast.unparse(call.func), call, "weights/a.py:1")
