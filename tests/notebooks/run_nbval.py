"""Run nbval on one notebook with kernels on Unix sockets: they work with the network off."""

import sys
import tempfile

import pytest
from jupyter_client.manager import KernelManager

with tempfile.TemporaryDirectory() as sockets:
    KernelManager.transport = "ipc"
    KernelManager.ip = f"{sockets}/kernel"
    code = pytest.main(
        ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "600", "-q", "-p",
         "no:cacheprovider", "--rootdir", "/", sys.argv[1]]
    )  # fmt: skip
sys.exit(code)
