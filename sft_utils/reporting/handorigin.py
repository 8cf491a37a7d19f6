"""What a recorded run was made of: settings that differ from the defaults, and its inputs.

A number of someone else's data, or of files that were made again since, looks like any other.
"""

from collections.abc import Mapping
from typing import Any

from sft_utils.notebook.nbdeps import dependencies, upstream_closure
from sft_utils.notebook.nbparams import defaults
from sft_utils.notebook.nbsource import Layout, parse, read_source


def settings(name: str, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Parameters of a run that differ from the defaults in its notebook's source.

    `profile` is left out: the report has one. Without a source nothing is known to be a default,
    and all are named.

    Returns:
        Name -> value as recorded; None if the run recorded no parameters.
    """
    if result.get("parameters") is None:
        return None
    layout = Layout.of()
    known: Mapping[str, Any] = {}
    if layout.source(name).is_file():
        known = defaults(parse(read_source(layout, name), name))
    given = {k: v for k, v in result["parameters"].items() if k != "profile"}
    return {k: v for k, v in given.items() if k not in known or v != known[k]}


def said(found: Mapping[str, Any] | None) -> str:
    """What `settings` found, as one would give it on the command line.

    Example:
        >>> said({"data": "mails.csv", "fresh": True}), said({}), said(None)
        ('data=mails.csv, fresh=true', '', 'settings not recorded')
    """
    if found is None:
        return "settings not recorded"
    shown = {k: str(v).lower() if isinstance(v, bool) else v for k, v in found.items()}
    return ", ".join(f"{k}={v}" for k, v in shown.items())


def inputs_gone(
    name: str, result: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Upstream notebooks without a sound record, and files recorded again since they were read.

    The hash of a folder covers its manifest with commit and run id, so that another hash does not
    say that weights or rows differ.
    """
    layout = Layout.of()
    needs = upstream_closure(layout, name) if layout.source(name).is_file() else []
    read = result.get("inputs", {})
    used = dict.fromkeys((*needs, *read))
    lost = [n for n in used if not results.get(n, {}).get("passed", n in results)]
    again = [
        f"{n[:2]} ({file} recorded again since)"
        for n, files in read.items()
        for file, sha256 in files.items()
        if n not in lost and (results[n].get("files") or {}).get(file, {}).get("sha256") != sha256
    ]
    return [n[:2] for n in lost] + again


def inputs_unrecorded(name: str, result: Mapping[str, Any]) -> list[str]:
    """Numbers of the notebooks a run read, if its record does not say which files of them."""
    layout = Layout.of()
    if "inputs" in result or not layout.source(name).is_file():
        return []
    return [n[:2] for n in dependencies(layout, name).upstream]
