"""Run nbval on one notebook with kernels on Unix sockets: they work with the network off."""

import sys
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sft_utils.runner.nbexec import socket_folder

with socket_folder() as sockets:
    KernelManager.transport = "ipc"
    KernelManager.ip = f"{sockets}/kernel"
    code = pytest.main(
        ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "600", "-q", "-p",
         "no:cacheprovider", "--rootdir", "/", sys.argv[1]]
    )  # fmt: skip
sys.exit(code)
