"""How the clauses of a mail are laid out: sentences, paragraphs, numbered points, quotes."""

from random import Random

from draw import pick
from voices import capital


def join(units: list[str]) -> str:
    """Join clauses with spaces, each with a capital at its start; empty ones are left out."""
    return " ".join(capital(unit) for unit in units if unit)


def body(
    rng: Random, start: list[str], middle: list[str], tail: list[str], *, numbered: bool
) -> str:
    """The text between greeting and signature.

    Args:
        start: Clauses before what happened, such as an early request.
        middle: What happened.
        tail: Requests, pressure and the like.
        numbered: Everything becomes point 1, the last clause is numbered already.
    """
    if numbered:
        intro = pick(rng, ("Two things:", "A few points:", "Several things:", ""))
        lines = [intro, "1) " + join([*start, *middle, *tail[:-1]]), tail[-1]]
        return "\n".join(line for line in lines if line)
    gap = pick(rng, (" ", " ", " ", "\n", "\n\n"))
    return gap.join(part for part in map(join, (start, middle, tail)) if part)


def quote(parts: list[str]) -> str:
    """An earlier message, quoted line by line."""
    lines = "\n".join(parts).replace("..", ".").splitlines()  # "3.4.." at the end of a sentence
    return "\n".join(f"> {line}" for line in lines)
