"""Shared fixtures: the real tokenizer, a tiny random model, and no network."""

import os
import socket
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if os.environ.get("PYTEST_XDIST_WORKER"):  # two busy test processes of two threads each take far
    from sft_utils.runner.nbjobs import (
        THREAD_SETTINGS,  # longer than of one: threads spin for cores
    )

    for name in THREAD_SETTINGS:
        os.environ.setdefault(name, "1")

from sft_utils import runtime  # noqa: E402

runtime.quiet()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Any connection off this machine fails at once."""
    connect = socket.socket.connect

    def guarded(self, address):
        local = isinstance(address, str | bytes) or address[0] in ("127.0.0.1", "localhost", "::1")
        if not local:
            raise OSError(f"tests must not use the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def loopback():
    """Process groups talk over 127.0.0.1; where that is down they wait half an hour for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        try:
            socket.create_connection(server.getsockname(), timeout=5).close()
        except OSError as why:
            pytest.skip(f"127.0.0.1 is not reachable ({why}): use unshare -rn .ci/offline COMMAND")


@pytest.fixture(scope="session")
def profile():
    from sft_utils.config import get_profile

    return get_profile("smoke")


@pytest.fixture(scope="session")
def tokenizer(profile):
    from sft_utils.model import modeling

    return modeling.load_tokenizer(profile)


@pytest.fixture
def tiny(tokenizer):
    """A random 2-layer Llama with the real vocabulary, float32, on the CPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = False
    return model.eval()


@pytest.fixture
def conversations():
    """Six conversations that stress a mask: several turns, empty system, unicode, long, code."""
    return [
        [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris"},
        ],
        [
            {"role": "system", "content": "One word."},
            {"role": "user", "content": "Capital of Peru?"},
            {"role": "assistant", "content": "Lima"},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Yes, Lima.\n\nIt is."},
        ],
        [
            {"role": "system", "content": ""},
            {"role": "user", "content": "naïve 日本語 🙂 <b>"},
            {"role": "assistant", "content": "🙂 答え "},
        ],
        [
            {"role": "user", "content": "long " * 80},
            {"role": "assistant", "content": "short"},
        ],
        [
            {"role": "user", "content": "Write code."},
            {"role": "assistant", "content": "def f(x):\n    return {'a': [x]}\n"},
        ],
        [
            {"role": "user", "content": "JSON please"},
            {"role": "assistant", "content": '{"a":null,"b":"c d"}'},
        ],
    ]
