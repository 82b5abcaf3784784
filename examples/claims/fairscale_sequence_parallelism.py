"""FairScale 0.4.13: does any name in it speak of sharing out a sequence? pip install fairscale

python examples/claims/fairscale_sequence_parallelism.py

Imports its modules, and looks at the names of modules, of what they define, and of all parameters. Left out is wgit,
for versions of weights, which ends the process where pygit2 is not installed.
"""

import importlib
import inspect
import re
import warnings
from pathlib import Path

import fairscale

SOUGHT = re.compile(
    r"(?i:(?:sequence|seq|context)_?par|seq_?dim|attention|ulysses)|(?:^|[._])ring(?:$|[._])|Ring(?=[A-Z])"
)


def main() -> None:
    warnings.simplefilter("ignore")
    folder = Path(fairscale.__file__).parent
    imported, names = 0, set()
    for file in sorted(folder.rglob("*.py")):
        module_name = ".".join(("fairscale", *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        if "wgit" in module_name:
            continue
        module = importlib.import_module(module_name)
        imported += 1
        names.add(module_name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module_name:
                names |= {f"{module_name}.{name}.{part}" for part in parts(value)} | {f"{module_name}.{name}"}
    matches = sorted({name for name in names if SOUGHT.search(name.rpartition(".")[2])})
    print(f"fairscale {fairscale.__version__}: {imported} modules imported, {len(names):,} names")
    print(f"names of sequence or context parallelism, ring, Ulysses, attention: {', '.join(matches) or 'none'}")


def parts(value: object) -> set[str]:
    """The names of a function's parameters, or of the methods of a class and of theirs."""
    found = set()
    for part in [value, *(vars(value).values() if inspect.isclass(value) else ())]:
        if part is not value and inspect.isfunction(part):
            found.add(part.__name__)
        try:
            found.update(inspect.signature(part).parameters)
        except (TypeError, ValueError):
            continue
    return found


if __name__ == "__main__":
    main()
