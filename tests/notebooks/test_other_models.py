"""Cells that a larger model runs too: they must not lean on the wording of one template or one size."""

import ast
import copy
from pathlib import Path

import pytest
import trl

from sft_utils.ability import general
from sft_utils.config import PROFILES
from sft_utils.cot import reasoning
from sft_utils.errors import MaskError
from sft_utils.masks import masking
from sft_utils.task import dialogues, structured

ROOT = Path(__file__).resolve().parents[2]
TALK = [
    {"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "<think>2 + 2</think>4"},
    {"role": "user", "content": "And one?"}, {"role": "assistant", "content": "<think>4 + 1</think>5"},
]  # fmt: skip


@pytest.fixture(params=["ours", "qwen2_5"])
def family(request, tokenizer):
    """The bundled model's tokenizer, and the same one with the template of the GPU profiles' models."""
    other = copy.deepcopy(tokenizer)
    if request.param != "ours":
        folder = Path(trl.__file__).parent / "chat_templates"
        other.chat_template = (folder / f"{request.param}.jinja").read_text(encoding="utf-8")
    return other


def run_lines(number, names, namespace):
    """Execute the top-level statements of a notebook that assign to some names."""
    source = next((ROOT / "notebooks" / "src").glob(f"{number}_*.py")).read_text(encoding="utf-8")
    chosen = [node for node in ast.parse(source).body if any(ast.unparse(t) in names for t in _targets(node))]
    assert chosen
    exec(compile(ast.Module(chosen, []), number, "exec"), namespace)
    return namespace


def _targets(node):
    inner = node.body[-1] if isinstance(node, ast.For) else node
    return inner.targets if isinstance(inner, ast.Assign) else [inner.target] if isinstance(inner, ast.AugAssign) else []


def render(tok, messages, template=None):
    return tok.apply_chat_template(messages, tokenize=False, chat_template=template)


def test_02_breaks_the_header_of_any_chatml_template(family):
    """It replaced literals of one template; on another nothing changed, and the fault was never planted."""
    spaced = run_lines("02", {"spaced"}, {"tokenizer": family})["spaced"]
    whole = render(family, TALK)
    assert render(family, TALK, spaced) == whole.replace("<|im_start|>assistant\n", "<|im_start|>assistant ").replace(
        "<|im_start|>user\n", "<|im_start|>user ").replace("<|im_start|>system\n", "<|im_start|>system ")  # fmt: skip
    assert "assistant\n" not in render(family, TALK, spaced)


def test_06_strips_earlier_thoughts_from_any_template(family):
    strips = run_lines("06", {"keeps", "strips", "strips.chat_template"},
                       {"tokenizer": family, "copy": copy})["strips"]  # fmt: skip
    before, after = render(strips, TALK[:2]), render(strips, TALK)
    assert "2 + 2" in before
    assert "2 + 2" not in after
    assert "4 + 1" in after
    assert after == render(family, [TALK[0], {**TALK[1], "content": "4"}, *TALK[2:]])
    with pytest.raises(MaskError, match="not a prefix"):
        masking.assistant_labels(strips, TALK, max_length=512)


@pytest.mark.parametrize("sizes", [structured.SIZES, reasoning.SIZES, dialogues.SIZES])
def test_larger_models_learn_at_their_own_rate(sizes):
    """The rate of the 135M model was the default of every profile."""
    tried = general.SIZES["gpu"].rates
    assert min(tried) <= sizes["gpu"].learning_rate <= max(tried) < sizes["cpu"].learning_rate
    assert {p.is_gpu for p in PROFILES.values()} == {True, False}


@pytest.mark.parametrize("number", ["03", "09"])
def test_an_own_answer_has_the_same_room_wherever_it_is_scored(number):
    """Nothing but the default of ROOM may read the profile's limit, which is that of tickets."""
    source = next((ROOT / "notebooks" / "src").glob(f"{number}_*.py")).read_text(encoding="utf-8")
    assert source.count("P.max_new_tokens") == source.count("ROOM = P.max_new_tokens") == 1
    assert "ROOM = generation.room(tokenizer, map(task.answer," in source
