"""What jsonargparse says is wrong with the arguments, in one line of ours: what was expected, what came, what to do."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from m2ib_lightning.names import meant, parameters, subclasses, with_article


class Fault(NamedTuple):
    """The innermost of jsonargparse's tree of reasons.

    Attributes:
        key: The argument in question, such as "model.loss_terms".
        base: The class that its value must be of, None if it is no class.
        within: The class whose argument it is, None at the top.
        said: The lines of the message.
        value: The value that was given for it.
    """

    key: str
    base: type | None
    within: type | None
    said: str
    value: str


def one_line(message: str, verb: str = "", options: Mapping[str, Sequence[str]] | None = None) -> str:
    r"""What matters of an error message: ours as it is, jsonargparse's tree of reasons in our words.

    Args:
        message: The message as it was raised.
        verb: That was typed, "" if it is not known.
        options: The options of each verb, for one that is not known.

    >>> one_line("Errors:\n  - Expected `steps` to be at least 1 but got 0. Remedy: choose more.\n  - Expected None")
    'Expected `steps` to be at least 1 but got 0. Remedy: choose more.'
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    ours = [line for line in lines if "Remedy:" in line]
    if ours:
        return ours[0]
    return _of_words(message, verb, options or {}) or _of_value(_fault(message)) or " ".join(lines)


def unknown_verb(verb: str, known: Sequence[str]) -> str:
    """That there is no such verb, and the nearest one."""
    other = f"`m2ib --help` shows them: {', '.join(known)}."
    return f"Expected a verb after `m2ib` but got {verb!r}. Remedy: {meant(verb, known, other)}"


def _of_words(message: str, verb: str, options: Mapping[str, Sequence[str]]) -> str | None:
    """What is wrong with the words of the command line, whatever their values."""
    help = f"see `m2ib {verb} --help`.".replace("  ", " ")
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown_option(found[1].partition("=")[0], verb, options, help)
    if found := re.match(r"Subcommand '\S+' does not accept option '(\S+)'", message):  # in a file
        return _unknown_option(f"--{found[1]}", verb, options, help)
    if found := re.match(r"ambiguous option: (\S+) could match (.*)", message):
        return f"Expected one option but `{found[1]}` may be {found[2]}. Remedy: write it in full."
    if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
        return unknown_verb(found[1], re.findall(r"[\w-]+", found[2]))
    if found := re.match(r"argument (\S+): expected (.*)", message):
        return f"Expected {found[2].removesuffix(' argument')} value after {found[1]} but got none. Remedy: {help}"
    if found := re.search(r"File does not exist: '(.*)'", message):
        return f"Expected a file as `config` but {found[1]} does not exist. Remedy: correct the path."
    return None


def _unknown_option(option: str, verb: str, options: Mapping[str, Sequence[str]], help: str) -> str:
    if not option.startswith("-"):
        return f"Expected options, --NAME VALUE, after the verb but got {option!r}. Remedy: {help}"
    takers = [other for other, known in options.items() if option in known and other != verb]
    if takers:
        who = " and ".join(f"`m2ib {other}`" for other in takers)
        return f"Expected an option of `m2ib {verb}` but got {option}. Remedy: leave it out; {who} can use it."
    return f"Expected a known option but got {option}. Remedy: {meant(option, options.get(verb, ()), help)}"


def _fault(message: str) -> Fault:
    keys = re.findall(r'Parser key "([^"]+)"', message)
    value = re.findall(r"Given value: (.*)", message)
    nested = re.match(r"NestedArg\(key='([\w.]+)', val='?(.*?)'?\)$", value[-1]) if value else None
    key, given = ".".join(keys), value[0] if value else ""
    if nested and keys:
        # The option may name more than the parsers that refuse it, or these more than the option.
        key, given = max(key, f"{keys[0]}.{nested[1]}", key=len), nested[2]
    kinds, owners = re.findall(r"Subtypes: \[(.*)\]", message), re.findall(r"given class_path '([^']+)'", message)
    base = next((k for name in re.findall(r"[\w.]+\.\w+", kinds[-1]) if (k := _class(name))), None) if kinds else None
    owners = [owner for owner in owners if _class(owner)]
    return Fault(key, base, _class(owners[-1]) if owners else None, message, given)


def _of_value(fault: Fault) -> str | None:
    """What is wrong with a value: a class that is not there or not of its kind, an argument that it does not take."""
    for told in (_argument, _no_class, _wrong_base, _choice, _kind):
        if line := told(fault):
            return line
    return None


def _argument(fault: Fault) -> str | None:
    """A class does not take an argument of that name."""
    found = re.search(r"Option '([^']+)' is not accepted", fault.said)
    if not found or fault.within is None:
        return None
    name, known = found[1], parameters(fault.within)
    otherwise = f"{fault.within.__name__} takes {', '.join(known)}."
    return (
        f"Expected an argument of {fault.within.__name__} but got `{fault.key.removesuffix(f'.{name}')}.{name}`. "
        f"Remedy: {meant(name, known, otherwise)}"
    )


def _no_class(fault: Fault) -> str | None:
    """There is no class of that name: none that is known, none in its file, or no such file."""
    if found := re.search(r"Expected a dot import path string: (\S+)", fault.said):
        return _unknown_class(fault, found[1])
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", fault.said):
        module = importlib.import_module(found[1])
        there = [name for name, kind in vars(module).items() if isinstance(kind, type) and not name.startswith("_")]
        known = [name for name in there if fault.base is None or issubclass(getattr(module, name), fault.base)]
        otherwise = (
            f"it has {_some(known)}." if known else f"write it, or correct the name; it has no {_name(fault.base)}."
        )
        return (
            f"Expected `{fault.key}` to be a class in its file but {_file(module.__file__)} has no class {found[2]}. "
            f"Remedy: {meant(found[2], known, otherwise)}"
        )
    if found := re.search(r"No module named '([\w.]+)'", fault.said):
        return (
            f"Expected `{fault.key}` to be FILE.CLASS but there is no {found[1]}.py here. "
            "Remedy: call m2ib in the folder of that file, or correct the name."
        )
    return None


def _unknown_class(fault: Fault, name: str) -> str:
    known = list(subclasses(fault.base)) if fault.base else []
    if name in known:  # several are asked for
        return f"Expected `{fault.key}` to be a list but got {name}. Remedy: [{name}] is a list of one."
    return (
        f"Expected `{fault.key}` to be a known {_name(fault.base)} but got {name}. "
        f"Remedy: {meant(name, known, f'choose one of {_some(known)}, or FILE.CLASS for one of your own.')}"
    )


def _wrong_base(fault: Fault) -> str | None:
    """The class is there and of another kind."""
    found = re.search(r"Import path (\S* )?does not correspond to a subclass of (\w+)", fault.said)
    if not found:
        return None
    name = (found[1] or fault.value).strip()
    kind = _class(name)
    instead = f"is {with_article(kind.__mro__[1].__name__)}" if kind and kind.__mro__[1] is not object else "is none"
    return (
        f"Expected `{fault.key}` to be {with_article(found[2])} but {name} {instead}. "
        f"Remedy: name a class below {found[2]}{_or_none(fault)}."
    )


def _choice(fault: Fault) -> str | None:
    found = re.search(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)", fault.said)
    if not found:
        return None
    known = re.findall(r"'([^']+)'", found[1])
    remedy = meant(found[2], known, "choose one of these.")
    return f"Expected `{fault.key}` to be one of {found[1]} but got {found[2]}. Remedy: {remedy}"


def _kind(fault: Fault) -> str | None:
    if found := re.findall(r"Expected a <class '(\w+)'>\. Got value: (.*)", fault.said):
        wanted, value = found[-1]
        wanted = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(wanted, wanted)
        return f"Expected `{fault.key}` to be {wanted} but got {value}. Remedy: see --help."
    if fault.base and fault.value.isidentifier() and subclasses(fault.base):
        return _unknown_class(fault, fault.value)  # an abstract one
    kinds = re.findall(r"Subtypes: \[(.*)\]", fault.said)
    if not (fault.key and kinds and fault.value):
        return None
    wanted = re.sub(r"typing\.|<class '([\w.]+)'>", r"\1", kinds[-1]).replace("NoneType", "null")
    remedy = f"[{fault.value}] is a list of one." if "list[str]" in wanted else "see --help."
    return f"Expected `{fault.key}` to be one of {wanted} but got {fault.value}. Remedy: {remedy}"


def _class(path: str) -> type | None:
    """The class of a full name, None if there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None
    return found if isinstance(found, type) else None


def _name(kind: type | None) -> str:
    return kind.__name__ if kind else "class"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + ", ..." * (len(names) > 20)


def _or_none(fault: Fault) -> str:
    known = list(subclasses(fault.base)) if fault.base else []
    return f", such as {_some(known[:3])}" if known else ""


def _file(path: str | None) -> str:
    if path is None:
        return "its folder"
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
