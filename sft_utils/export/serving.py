"""A kept model server as a child process on loopback: start, ask, stop, leave nothing behind."""

import contextlib
import errno
import importlib.util
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sft_utils import heap
from sft_utils.artifacts import ROOT
from sft_utils.config import cpu_threads
from sft_utils.errors import ServeError
from sft_utils.masks.chat import Message
from sft_utils.workers import end_with_parent

HOST = "127.0.0.1"
NEEDS = ("fastapi", "uvicorn", "openai", "pydantic")
"""What `transformers serve` imports besides transformers."""

LLAMA = ("xllamacpp",)
"""What llama.cpp's server needs."""

VLLM_START_S = 900.0
"""vLLM compiles and captures graphs before it is healthy; other servers only load weights."""

DYING_S = 2.0
"""How long after a failed request a server may take to end: it is asked for its last words then."""

VLLM_SHARE = 0.9
"""Share of a GPU that vLLM takes of itself if all of it is free."""

VLLM_MARGIN = 2**30
"""Bytes left free: the context of its process is made before it looks at what is free."""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for loopback


def obstacle(needs: Sequence[str] = NEEDS) -> str:
    """Why no server can be used here, in a few words; empty if one can.

    Args:
        needs: Packages that the server needs.
    """
    lacking = [name for name in needs if importlib.util.find_spec(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    with socket.create_server((HOST, 0)) as server:
        try:
            socket.create_connection(server.getsockname(), timeout=5).close()
        except OSError as error:
            return f"{HOST} is not reachable ({error})"
    return ""


def free_port() -> int:
    """A port that nobody listens on at present."""
    with socket.create_server((HOST, 0)) as server:
        return server.getsockname()[1]


def transformers_command(folder: Path, port: int, *, dtype: str, device: str) -> list[str]:
    """The server that comes with transformers: OpenAI's protocol, requests batched as they come.

    Without continuous batching it answers one request after the other; on two cores with the 135M
    model that took four times as long. The cache holds 256 blocks.
    """
    return [
        sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder),
        "--host", HOST, "--port", str(port), "--dtype", dtype, "--device", device,
        "--attn-implementation", "sdpa", "--continuous-batching",
        "--cb-num-blocks", "256", "--cb-max-batch-tokens", "512",
    ]  # fmt: skip


def vllm_command(folder: Path, port: int, *, dtype: str, max_tokens: int) -> list[str]:
    """The server for a GPU; the folder's generation config is believed, nothing is fetched.

    It reserves a share of the whole GPU, 0.9 of itself, and since 0.9 it refuses to start where
    less is free. The models of a notebook lie there too, so it gets what they leave at this moment.
    """
    share = _free_share()
    options = [] if share is None else ["--gpu-memory-utilization", f"{share:.2f}"]
    return [
        "vllm", "serve", str(folder), "--host", HOST, "--port", str(port), "--dtype", dtype,
        "--max-model-len", str(max_tokens), "--generation-config", str(folder), "--seed", "0",
        *options,
    ]  # fmt: skip


def _free_share() -> float | None:
    """Share of the first GPU that another process can have, rounded down; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    heap.give_back_freed_memory()
    free, total = torch.cuda.mem_get_info(0)
    share = min(VLLM_SHARE, (free - VLLM_MARGIN) / total)
    return max(math.floor(100 * share), 1) / 100  # where nothing is free, vLLM says so itself


def llama_command(file: Path, port: int, *, max_tokens: int) -> list[str]:
    """llama.cpp's own server on one GGUF file (package xllamacpp), four requests at a time."""
    return [
        sys.executable,
        "-m",
        "sft_utils.export.serving",
        str(file),
        str(port),
        str(4 * max_tokens),
    ]


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, *, log: Path, timeout_s: float | None = None
) -> Iterator[str]:
    """Run a server until the block ends.

    It gets its own process group, which is ended with the block, however that ends; on Linux the
    server also ends if this process is killed.

    Args:
        command: The server; listens on HOST and `port`, answers GET /health.
        port: Where it will listen.
        log: File for all it prints.
        timeout_s: Seconds until it must be healthy; default 180, for vLLM 900.
    Yields:
        The address, "http://127.0.0.1:8123".
    Raises:
        ServeError: Somebody else listens on the port; or it ended, or was not healthy in time:
            holds the last lines of its log.
    """
    _refuse_taken(port)
    log.parent.mkdir(parents=True, exist_ok=True)
    address = f"http://{HOST}:{port}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if timeout_s is None:
        timeout_s = VLLM_START_S if Path(command[0]).name == "vllm" else 180.0
    heap.give_back_freed_memory()
    with log.open("w", encoding="utf-8") as output:
        try:
            process = subprocess.Popen(
                list(command), env=environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=end_with_parent(),
            )  # fmt: skip
        except OSError as error:
            raise ServeError(f"cannot start {command[0]}: {error.strerror}") from error
    try:
        _wait(process, address, log, timeout_s)
        try:
            yield address
        except ServeError as error:  # a refused connection does not say why the server ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DYING_S)
                raise _ended(log, "ended while it was asked") from error
            raise
        if process.poll() is not None:
            raise _ended(log, "ended while it was asked")
    finally:
        stop(process)


def _refuse_taken(port: int) -> None:
    """A stranger on the port would pass for the server while that still imports its libraries."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return  # the server tries the same, and says it better
        raise ServeError(
            f"port {port} of {HOST} is taken by another program, which would have been asked "
            "instead of the server. End it, or take serving.free_port()."
        ) from error


def _wait(process: Any, address: str, log: Path, timeout_s: float) -> None:
    """Until the server is healthy."""
    deadline = time.monotonic() + timeout_s
    while True:
        healthy = False
        with contextlib.suppress(OSError), _DIRECT.open(f"{address}/health", timeout=5) as answer:
            healthy = answer.status == 200
        late = time.monotonic() > deadline
        time.sleep(0.25)  # a server whose port another one has taken needs a moment to end
        if process.poll() is not None:
            raise _ended(log, "ended at start")
        if healthy:
            return
        if late:
            raise _ended(log, f"was not healthy after {timeout_s:g} s")


def _ended(log: Path, what: str) -> ServeError:
    """What became of a server, with the last lines of its log."""
    said = log.read_text(encoding="utf-8", errors="replace")
    said = said.replace(f"{ROOT}/", "")  # the message may stand in a published notebook
    lines = said.splitlines()[-6:]
    return ServeError(f"the server {what}; its last lines: " + " | ".join(lines))


def stop(process: Any, *, grace_s: float = 15.0) -> None:
    """End a process group: asked first, killed after `grace_s` seconds."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
            break
    with contextlib.suppress(ProcessLookupError):  # children that outlived it
        os.killpg(process.pid, signal.SIGKILL)


def complete(
    address: str, model: str, messages: Sequence[Message], *, max_new_tokens: int,
    timeout_s: float = 300.0,
) -> tuple[str, int, bool]:  # fmt: skip
    """One greedy answer by POST /v1/chat/completions.

    Returns:
        Text, number of prompt tokens the server counted, and whether the answer came to its end.
    Raises:
        ServeError: Another status than 200, or an answer of another form.
    """
    body: dict[str, Any] = {"model": model, "messages": list(messages), "temperature": 0.0}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps({**body, "max_tokens": max_new_tokens}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with _DIRECT.open(request, timeout=timeout_s) as response:
            found = json.loads(response.read())
        choice = found["choices"][0]
        text, tokens = choice["message"]["content"], found["usage"]["prompt_tokens"]
    except urllib.error.HTTPError as error:
        said = error.read()[:300].decode(errors="replace")  # the cut may go through a character
        raise ServeError(f"status {error.code}: {said}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ServeError(f"no usable answer from {address}: {error!r}") from error
    return text or "", tokens, choice["finish_reason"] == "stop"


def _llama(file: str, port: int, n_ctx: int) -> None:
    """Serve a GGUF file until somebody ends the process."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.hostnames, settings.port = file, [HOST], port
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = n_ctx, 4, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = cpu_threads()
    settings.warmup = settings.ui = False
    server = xllamacpp.Server(settings)
    print(f"listening at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    _llama(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
