"""The rules of documents in a few lines that a small model can follow."""

from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT, read_json
from sft_utils.errors import ConfigError

_XS = "{http://www.w3.org/2001/XMLSchema}"
_WORDS = {"string": "text", "date": "date (YYYY-MM-DD)", "decimal": "number"}


def of_xsd(path: str | Path) -> str:
    """An XSD as the document it describes, types in the places of texts.

    One root element with attributes and a sequence of leaf elements is understood; that is what
    the examples of this project use.

    Args:
        path: Relative to the repository root.
    Raises:
        ConfigError: The XSD has another form.
    Example:
        >>> print(of_xsd("data/structured/xsd/event.xsd").splitlines()[1])
          <title>text</title>
    """
    from lxml import etree

    top = etree.parse(str(ROOT / path)).getroot()
    simple = {node.get("name"): _restricted(node) for node in top.findall(f"{_XS}simpleType")}
    roots = top.findall(f"{_XS}element")
    body = roots[0].find(f"{_XS}complexType") if len(roots) == 1 else None
    leaves = body.findall(f"{_XS}sequence/{_XS}element") if body is not None else []
    if not leaves or any(leaf.get("type") is None for leaf in leaves):
        raise ConfigError(f"{path}: no outline for an XSD that is not one root with simple leaves")

    def kind(node: Any) -> str:
        name = node.get("type")
        return simple.get(name) or _WORDS.get(name.split(":")[-1], name.split(":")[-1])

    name = roots[0].get("name")
    given = "".join(f' {a.get("name")}="{kind(a)}"' for a in body.findall(f"{_XS}attribute"))
    lines = [f"<{name}{given}>"]
    for leaf in leaves:
        optional = " (optional)" if leaf.get("minOccurs") == "0" else ""
        lines.append(f"  <{leaf.get('name')}>{kind(leaf)}</{leaf.get('name')}>{optional}")
    return "\n".join([*lines, f"</{name}>"])


def _restricted(node: Any) -> str:
    """A simple type in words: its values, its pattern, or its base with bounds."""
    rule = node.find(f"{_XS}restriction")
    facets = {child.tag.removeprefix(_XS): child.get("value") for child in rule}
    values = [child.get("value") for child in rule.findall(f"{_XS}enumeration")]
    if values:
        return " | ".join(values)
    if "pattern" in facets:
        return facets["pattern"]
    base = rule.get("base").split(":")[-1]
    low = facets.get("minInclusive") or facets.get("minExclusive")
    high = facets.get("maxInclusive") or facets.get("maxExclusive")
    bounds = f" {low}..{high}" if low and high else ""
    return _WORDS.get(base, base) + bounds


def of_report(path: str | Path) -> str:
    """The outline of a Markdown report: headings, bullets, status.

    Args:
        path: A specification as `documents.check_report` takes it, relative to the root.
    """
    spec = read_json(ROOT / path)
    lines = []
    for title in spec["headings"]:
        bounds = spec.get("bullets", {}).get(title)
        lines += ["#" * spec.get("level", 2) + f" {title}"]
        lines += [f"- {bounds[0]} to {bounds[1]} bullets" if bounds else "one sentence"]
    return "\n".join([*lines, f"Status: {' | '.join(spec['status'])}"])
