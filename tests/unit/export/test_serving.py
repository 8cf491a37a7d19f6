"""A server is started, asked and ended with all its children; its failures are told in words."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from sft_utils.artifacts import ROOT
from sft_utils.errors import ServeError
from sft_utils.export import answering, merging, serving

pytestmark = pytest.mark.usefixtures("loopback")

# A server of OpenAI's protocol in a few lines; it also starts a child that ignores SIGTERM.
FAKE = textwrap.dedent(r"""
    import json, subprocess, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer
    child = subprocess.Popen([sys.executable, "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
    open(sys.argv[2], "w").write(str(child.pid))

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status, value):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.reply(200, {"status": "ok"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if body["model"] == "absent":
                return self.reply(404, {"error": "no such model"})
            if body["model"] == "cut":
                self.send_response(500)
                self.end_headers()
                return self.wfile.write(("x" + "\u00e9" * 400).encode())
            if body["model"] == "odd":
                return self.reply(200, {"choices": []})
            said = body["messages"][-1]["content"]
            self.reply(200, {
                "choices": [{"message": {"content": said.upper()}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": len(said)}})

        def log_message(self, *_):
            pass

    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
""")


def gone(pid, within_s=10.0):
    """Whether a process is no longer running."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:  # psutil: where there is no /proc, every process would count as gone
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def fake(tmp_path):
    """(command, port, file that will hold the id of the server's child)."""
    (tmp_path / "fake.py").write_text(FAKE)
    port, child = serving.free_port(), tmp_path / "child"
    return [sys.executable, str(tmp_path / "fake.py"), str(port), str(child)], port, child


def test_asked_and_ended_with_its_children(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # loopback goes through no proxy
    command, port, child = fake
    with serving.running(command, port, log=tmp_path / "log", timeout_s=30) as address:
        found = serving.complete(
            address, "m", [{"role": "user", "content": "hello"}], max_new_tokens=5
        )
        assert found == ("HELLO", 5, True)
        with pytest.raises(ServeError, match=r"status 404.*no such model"):
            serving.complete(address, "absent", [], max_new_tokens=5)
        with pytest.raises(ServeError, match="status 500: xé.*é\ufffd$"):  # 300 bytes end inside an é
            serving.complete(address, "cut", [], max_new_tokens=5)
        with pytest.raises(ServeError, match="no usable answer"):
            serving.complete(address, "odd", [{"role": "user", "content": "x"}], max_new_tokens=5)
        pid = int(child.read_text())
        assert not gone(pid, 0.3)
    assert gone(pid), "a child that ignores SIGTERM is ended too"
    with pytest.raises(ServeError, match="no usable answer"):
        serving.complete(address, "m", [{"role": "user", "content": "x"}], max_new_tokens=1)


def test_ended_when_the_block_raises(fake, tmp_path):
    command, port, child = fake
    with (
        pytest.raises(KeyError),
        serving.running(command, port, log=tmp_path / "log", timeout_s=30),
    ):
        raise KeyError("in the notebook")
    assert gone(int(child.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_ended_when_the_notebook_is_killed(fake, tmp_path):
    command, port, _ = fake
    script = (
        "import os, time\nfrom pathlib import Path\nfrom sft_utils import serving\n"
        f"with serving.running({command!r}, {port}, log=Path({str(tmp_path / 'log')!r})):\n"
        "    print('up', flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    listed = subprocess.run(["ps", "--ppid", str(parent.pid), "-o", "pid="],
                            capture_output=True, text=True, check=False)  # fmt: skip
    server = int(listed.stdout.split()[0])
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert gone(server)


def test_a_server_that_ends_says_why(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such folder')"]
    with (
        pytest.raises(ServeError, match="ended at start.*no such folder"),
        serving.running(command, serving.free_port(), log=tmp_path / "log"),
    ):
        pass


def test_a_server_that_hangs_is_given_up(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    began = time.monotonic()
    with (
        pytest.raises(ServeError, match="was not healthy after 1 s"),
        serving.running(command, serving.free_port(), log=tmp_path / "log", timeout_s=1),
    ):
        pass
    assert time.monotonic() - began < 20


def test_a_port_that_somebody_else_has_is_refused(fake, tmp_path):
    """A server that imports for seconds before it binds would not have ended yet."""
    late = [sys.executable, "-c", "import time; time.sleep(600)"]
    command, port, _ = fake
    with (
        serving.running(command, port, log=tmp_path / "other"),
        pytest.raises(ServeError, match=f"port {port} of 127.0.0.1 is taken by another program"),
        serving.running(late, port, log=tmp_path / "log"),
    ):
        pass
    assert not (tmp_path / "log").exists()  # nothing was started


def test_an_answer_of_somebody_else_is_not_taken(fake, tmp_path, monkeypatch):
    """The port was free and is not any more: another server is healthy there, ours ends."""
    late = [sys.executable, "-c", "import time; time.sleep(0.1); raise SystemExit('address in use')"]
    command, port, _ = fake
    with serving.running(command, port, log=tmp_path / "other"):
        monkeypatch.setattr(serving, "_refuse_taken", lambda port: None)  # it was free a moment ago
        with (
            pytest.raises(ServeError, match="ended at start.*address in use"),
            serving.running(late, port, log=tmp_path / "log"),
        ):
            pass


def test_a_server_that_dies_while_it_is_asked_is_told(tmp_path):
    brief = textwrap.dedent("""
        import sys, threading
        from http.server import BaseHTTPRequestHandler, HTTPServer

        class Healthy(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()

        server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy)
        threading.Timer(1.5, server.shutdown).start()
        server.serve_forever()
        raise SystemExit("out of memory")
    """)
    port = serving.free_port()
    with (
        pytest.raises(ServeError, match="ended while it was asked.*out of memory"),
        serving.running([sys.executable, "-c", brief, str(port)], port, log=tmp_path / "log"),
    ):
        time.sleep(3)


def test_a_request_that_fails_because_the_server_died_says_why(fake, tmp_path, monkeypatch):
    """Asked by the notebook's own function, whose error only knows that nobody answered."""
    command, port, _ = fake
    Path(command[1]).write_text(FAKE.replace(
        'if body["model"] == "absent":',
        'if body["model"] == "huge":\n            print("killed: out of memory", flush=True); '
        'import os; os._exit(1)\n        if body["model"] == "absent":',
    ))  # fmt: skip
    monkeypatch.setattr(serving, "DYING_S", 10.0)  # a busy machine
    with (
        pytest.raises(ServeError, match="ended while it was asked.*killed: out of memory"),
        serving.running(command, port, log=tmp_path / "log") as address,
    ):
        serving.complete(address, "huge", [{"role": "user", "content": "x"}], max_new_tokens=1)


def test_a_request_that_a_living_server_refuses_keeps_its_own_reason(fake, tmp_path, monkeypatch):
    command, port, _ = fake
    monkeypatch.setattr(serving, "DYING_S", 0.1)
    with (
        pytest.raises(ServeError, match="status 404"),
        serving.running(command, port, log=tmp_path / "log") as address,
    ):
        serving.complete(address, "absent", [{"role": "user", "content": "x"}], max_new_tokens=1)


def test_a_command_that_does_not_exist(tmp_path):
    with (
        pytest.raises(ServeError, match="cannot start no-such-server"),
        serving.running(["no-such-server"], 1, log=tmp_path / "log"),
    ):
        pass


def test_what_is_missing_is_named():
    assert serving.obstacle(["json", "no_such_package"]) == "not installed: no_such_package"
    assert serving.obstacle(["json"]) == ""


def test_loopback_that_is_down_is_named(monkeypatch):
    def refuse(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(serving.socket, "create_connection", refuse)
    assert "127.0.0.1 is not reachable" in serving.obstacle([])


def test_the_commands_serve_only_to_this_machine(tmp_path):
    ours = serving.transformers_command(tmp_path, 8123, dtype="float32", device="cpu")
    vllm = serving.vllm_command(tmp_path, 8123, dtype="bfloat16", max_tokens=512)
    for command in (ours, vllm):
        assert command[command.index("--host") + 1] == "127.0.0.1"
        assert command[command.index("--port") + 1] == "8123"


@pytest.fixture
def gpu(monkeypatch):
    """Sets what torch says about a GPU of 80 GiB; lists what was asked of it."""
    import torch

    asked = []

    def has(free_gib):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("empty_cache"))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (
            asked.append("mem_get_info"), (int(free_gib * 2**30), 80 * 2**30)
        )[1])  # fmt: skip
        return asked

    return has


@pytest.mark.parametrize(("free_gib", "share"), [(80, "0.90"), (60, "0.73"), (1, "0.01"), (0.5, "0.01")])
def test_vllm_gets_what_the_notebook_leaves_of_the_gpu(gpu, tmp_path, free_gib, share):
    """Its default, 0.9 of all, is refused where models of the notebook lie on the GPU."""
    asked = gpu(free_gib)
    vllm = serving.vllm_command(tmp_path, 8123, dtype="bfloat16", max_tokens=512)
    assert vllm[vllm.index("--gpu-memory-utilization") + 1] == share
    assert asked == ["empty_cache", "mem_get_info"], "what torch only keeps is not taken"


def test_without_a_gpu_vllm_is_told_no_share(monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    vllm = serving.vllm_command(tmp_path, 8123, dtype="bfloat16", max_tokens=512)
    assert "--gpu-memory-utilization" not in vllm


@pytest.mark.parametrize(("given", "name", "waited"), [
    (None, "vllm", 900), (None, "python", 180), (7, "vllm", 7), (7, "python", 7),
])  # fmt: skip
def test_vllm_has_longer_to_start(tmp_path, monkeypatch, given, name, waited):
    """It compiles before it is healthy; that alone takes minutes for a large model."""
    server = tmp_path / name
    server.write_text("#!/bin/sh\nexec sleep 600\n")
    server.chmod(0o755)
    seen = []
    monkeypatch.setattr(serving, "_wait", lambda *rest: seen.append(rest[-1]))
    with serving.running([str(server)], 1, log=tmp_path / "log", timeout_s=given):
        pass
    assert seen == [waited]


@pytest.fixture
def exported(tiny, tokenizer, tmp_path):
    """A folder of a tiny model, and its weights in memory."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny, LoraConfig(r=2, target_modules="all-linear"))
    folder = tmp_path / "exported"
    merging.export(model, tokenizer, folder, dtype=torch.float32, name="tiny")
    return folder, model.eval()


ASKED = [[{"role": "user", "content": text}] for text in ("Hello there", "12 and 30", "a" * 90)]


def test_a_fresh_process_gives_the_same(exported, tokenizer):
    import torch

    from sft_utils.masks import chat
    from sft_utils.model import generation

    folder, model = exported
    probe = (tokenizer.encode("Hello there"), [0, 1])
    found = answering.fresh(folder, ASKED, dtype="float32", device="cpu", max_new_tokens=6,
                            batch_size=3, probes=[probe])  # fmt: skip
    prompts = [chat.prompt_ids(tokenizer, c) for c in ASKED]
    assert found.prompts == prompts
    assert found.template == chat.template_hash(tokenizer)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([probe[0]])).logits[0, [0, 1]]
    assert torch.allclose(found.logits[0], expected, atol=1e-4)
    here = generation.generate(model, tokenizer, prompts, max_new_tokens=6, batch_size=3)
    assert [a.text for a in here] == [a.text for a in found.answers]


def test_a_relative_folder_is_that_of_the_caller(tmp_path, monkeypatch):
    """The process starts in the repository, where another export may have the same name."""
    seen = []

    def started(command, **options):
        seen.append(json.loads((Path(command[-1]) / "job.json").read_text())["folder"])
        return subprocess.CompletedProcess(command, 1, "", "ended")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(answering.subprocess, "run", started)
    with pytest.raises(ServeError, match="could not use out: ended"):
        answering.fresh(Path("out"), ASKED, dtype="float32", device="cpu", max_new_tokens=1, batch_size=1)
    assert seen == [str(tmp_path.resolve() / "out")]


def test_a_folder_that_cannot_be_used_says_why(exported):
    folder, _ = exported
    (folder / "model.safetensors").unlink()
    with pytest.raises(ServeError, match="could not use exported"):
        answering.fresh(folder, ASKED, dtype="float32", device="cpu", max_new_tokens=2, batch_size=1)


def test_a_fresh_process_that_takes_too_long_is_ended(exported):
    folder, _ = exported
    began = time.monotonic()
    with pytest.raises(ServeError, match=r"ended after 0\.2 s: 3 answers of exported were not ready.*timeout_s"):
        answering.fresh(folder, ASKED, dtype="float32", device="cpu", max_new_tokens=2, batch_size=1,
                        timeout_s=0.2)  # fmt: skip
    assert time.monotonic() - began < 30


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_a_fresh_process_ends_with_the_notebook(tmp_path):
    """A kernel that is killed must not leave a loaded model behind."""
    child, hangs = tmp_path / "child", tmp_path / "python"
    hangs.write_text(f"#!/bin/sh\necho $$ > {child}.part && mv {child}.part {child}\nexec sleep 600\n")
    hangs.chmod(0o755)
    script = (
        "import sys\nfrom pathlib import Path\nfrom sft_utils import answering\n"
        f"sys.executable = {str(hangs)!r}\n"
        "answering.fresh(Path('x'), [], dtype='float32', device='cpu', max_new_tokens=1, batch_size=1)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not child.exists():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(int(child.read_text()))


def test_transformers_serves_the_same_text(exported, tokenizer, tmp_path):
    """The real server, a tiny model: greedy answers over HTTP are those of this process."""
    if serving.obstacle():
        pytest.skip(serving.obstacle())
    from concurrent.futures import ThreadPoolExecutor

    from sft_utils.masks import chat
    from sft_utils.model import generation

    folder, model = exported
    port = serving.free_port()
    command = serving.transformers_command(folder, port, dtype="float32", device="cpu")
    with (
        serving.running(command, port, log=tmp_path / "log") as address,
        ThreadPoolExecutor(3) as pool,
    ):
        served = list(pool.map(
            lambda c: serving.complete(address, str(folder), c, max_new_tokens=6), ASKED
        ))  # fmt: skip
    prompts = [chat.prompt_ids(tokenizer, c) for c in ASKED]
    here = generation.generate(model, tokenizer, prompts, max_new_tokens=6, batch_size=1)
    assert [text for text, _, _ in served] == [a.text for a in here]
    assert [tokens for _, tokens, _ in served] == [len(p) for p in prompts]


def test_llama_cpp_reads_the_file_and_renders_the_same_prompts(tiny, tokenizer, tmp_path):
    """Its tokenizer and template engine are its own: prompts must come out at the same length."""
    if why := serving.obstacle(serving.LLAMA):
        pytest.skip(why)
    from sft_utils.export import gguffile
    from sft_utils.masks import chat

    path, port = tmp_path / "m.gguf", serving.free_port()
    gguffile.write(path, tiny.named_parameters(), tiny.config, tokenizer, kind="F32", name="tiny")
    command = serving.llama_command(path, port, max_tokens=512)
    with serving.running(command, port, log=tmp_path / "log") as address:
        found = [serving.complete(address, "tiny", c, max_new_tokens=4) for c in ASKED]
    assert [n for _, n, _ in found] == [len(chat.prompt_ids(tokenizer, c)) for c in ASKED]


def test_the_message_of_a_failed_server_names_no_machine(tmp_path):
    inside = ROOT / "sft_utils"
    command = [sys.executable, "-c", f"raise SystemExit('no model in {inside}')"]
    with (
        pytest.raises(ServeError, match="no model in sft_utils"),
        serving.running(command, serving.free_port(), log=tmp_path / "log"),
    ):
        pass
