"""What the command line says of an error: one line, with the remedy."""

from __future__ import annotations

import errno
import re
import sys
from typing import NoReturn

from m2ib_lightning.data.dicom import MissingExtra
from m2ib_lightning.printable import printable
from m2ib_lightning.store import StoreError


def explained(error: Exception) -> str | None:
    """What to tell the user of an error that is no fault of the program, None for one that may be."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Expected room on the disk but got {error}. Remedy: make room, then the same command."
    return str(error) if isinstance(error, ValueError | StoreError | MissingExtra) else None


def fail(message: str) -> NoReturn:
    """End the command with one line on standard error and the exit status 2."""
    print(f"m2ib: error: {printable(one_line(message))}", file=sys.stderr)
    sys.exit(2)


def one_line(message: str) -> str:
    r"""What matters of an error message: ours as it is, jsonargparse's tree of reasons in our words.

    >>> one_line("Errors:\n  - Expected `steps` to be at least 1 but got 0. Remedy: choose more.\n  - Expected None")
    'Expected `steps` to be at least 1 but got 0. Remedy: choose more.'
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    ours = [line for line in lines if "Remedy:" in line]
    if ours:
        return ours[0]
    name = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    unknown = re.search(r"Option '([^']+)' is not accepted", message)
    if unknown:
        return f"Expected a known argument but got `{name}.{unknown[1]}`. Remedy: choose one that --help shows."
    kinds, value = re.findall(r"Subtypes: \[(.*)\]", message), re.search(r"Given value: (.*)", message)
    nested = value and re.match(r"NestedArg\(key='(\w+)', val='?(.*?)'?\)", value[1])
    if name and nested:
        return f"Expected something else as `{name}.{nested[1]}` than {nested[2]}. Remedy: see --help."
    choices = re.search(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)", message)
    if name and choices:
        return f"Expected `{name}` to be one of {choices[1]} but got {choices[2]}. Remedy: choose one of these."
    if name and kinds and value:
        wanted = re.sub(r"typing\.|<class '([\w.]+)'>", r"\1", kinds[-1]).replace("NoneType", "null")
        return f"Expected `{name}` to be one of {wanted} but got {value[1]}. Remedy: see --help."
    return " ".join(lines)
