"""Which grammar engine constrains decoding? Coverage, mask time, batches and install size, in one run.

    python -m tests.bench.constrained_libraries outputs/reference/constrained.json
    python -m tests.bench.constrained_libraries outputs/reference/constrained.json batch

The candidates that are not pinned (xgrammar 0.2.8 with apache-tvm-ffi, outlines_core 0.2.14) must
be importable, for example installed beside the environment with `pip install --no-deps --target`.
Every engine gets the same schemas and walks the same tokens: the gold answers of data/structured
(it must allow each of them, and then the stop token) and broken copies of them (it must not).
A batch is one answer of each schema, all at another place: masks by the engine's own call for several
answers, if it has one, against one call per answer. The second form measures that part again alone and
keeps the other figures.
"""

import copy
import importlib.metadata
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from sft_utils.artifacts import ROOT, read_json, write_json
from sft_utils.config import get_profile
from sft_utils.data.rows import rows_of
from sft_utils.model import modeling
from sft_utils.runtime import hardware
from sft_utils.scores.jsonanswers import schema_errors

N_VOCAB = 49152
LAYOUT = {"whitespace_flexible": True, "whitespace_pattern": " ?"}


class LLGuidance:
    name, packages, extra = "llguidance", ("llguidance",), ()

    def __init__(self, tokenizer):
        import llguidance.hf

        self.stop = tokenizer.eos_token_id
        self.vocabulary = llguidance.hf.from_tokenizer(tokenizer, n_vocab=N_VOCAB)
        self.workers = llguidance.LLExecutor()

    def compile(self, schema):
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=LAYOUT)
        failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, self.vocabulary)
        if failed or messages:
            raise ValueError(messages[0].splitlines()[0])
        return lambda: LLMatcher(self.vocabulary, grammar, log_level=0)

    def mask(self, state):
        return state.compute_bitmask()

    def batch(self, states):
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

        bits = allocate_token_bitmask(len(states), N_VOCAB)
        places = [(state, k) for k, state in enumerate(states)]
        return lambda: fill_next_token_bitmask_par(self.workers, places, bits), bits

    def take(self, state, mask, token):
        allowed = mask[token // 8] >> (token % 8) & 1
        return bool(allowed) and state.consume_token(token)


class XGrammar:
    name, packages = "xgrammar", ("xgrammar", "apache-tvm-ffi")
    extra = (("triton", 1000.0),)  # MiB unpacked; required by its metadata on Linux

    def __init__(self, tokenizer):
        import xgrammar

        self.xgr, self.stop = xgrammar, tokenizer.eos_token_id
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=N_VOCAB)
        self.compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
        self.bits = xgrammar.allocate_token_bitmask(1, N_VOCAB)

    def compile(self, schema):
        grammar = self.compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
        return lambda: self.xgr.GrammarMatcher(grammar)

    def mask(self, state):
        state.fill_next_token_bitmask(self.bits)
        return self.bits

    def batch(self, states):
        bits = self.xgr.allocate_token_bitmask(len(states), N_VOCAB)
        together = self.xgr.BatchGrammarMatcher()
        return lambda: together.batch_fill_next_token_bitmask(states, bits), bits.numpy()

    def take(self, state, mask, token):
        allowed = int(mask[0, token // 32]) >> (token % 32) & 1
        return bool(allowed) and state.accept_token(token)


class OutlinesCore:
    name, packages, extra = "outlines_core", ("outlines_core",), ()

    def __init__(self, tokenizer):
        from outlines_core import Vocabulary

        self.stop = tokenizer.eos_token_id
        special = set(tokenizer.all_special_ids)
        table = {}
        for token in range(len(tokenizer)):
            if token not in special:
                table.setdefault(tokenizer.decode([token]), []).append(token)
        table = {k: v for k, v in table.items() if "\ufffd" not in k and k}
        self.vocabulary = Vocabulary(self.stop, table)
        self.bits = np.zeros(N_VOCAB // 32, dtype=np.int32)

    def compile(self, schema):
        from outlines_core import Guide, Index, json_schema

        regex = json_schema.build_regex_from_schema(json.dumps(schema), " ?")
        index = Index(regex, self.vocabulary)
        return lambda: Guide(index)

    def mask(self, state):
        return set(state.get_tokens())

    def batch(self, states):
        return None  # a Guide is of one answer

    def alone(self, state):
        state.write_mask_into(self.bits.ctypes.data, self.bits.size, 4)  # `mask` builds a set

    def take(self, state, mask, token):
        if token not in mask:
            return False
        if token != self.stop:
            state.advance(token, return_tokens=False)
        return True


def broken(answer, schema):
    """Copies of a valid answer with one fault each; only those that jsonschema refuses."""
    found = {}

    def keep(kind, value):
        if schema_errors(value, schema):
            found.setdefault(kind, value)

    def walk(value, path):
        if isinstance(value, dict):
            for key in value:
                yield from walk(value[key], [*path, key])
        elif isinstance(value, list):
            for index in range(len(value)):
                yield from walk(value[index], [*path, index])
        else:
            yield path, value

    def replaced(path, new):
        whole = copy.deepcopy(answer)
        part = whole
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = new
        return whole

    for path, value in walk(answer, []):
        keep("wrong type", replaced(path, {"value": value}))
        if isinstance(value, str):
            keep("enum or format", replaced(path, value + "~"))
            keep("too long", replaced(path, value * 40))
        if isinstance(value, int | float) and not isinstance(value, bool):
            keep("bound", replaced(path, -10_000_019))
            keep("bound above", replaced(path, 10**9 + 7))
    for key in answer:
        keep("missing key", {k: v for k, v in answer.items() if k != key})
    keep("extra key", {**answer, "zzz": 1})
    return found


def measure(engine, schemas, rows, tokenizer):
    started = time.perf_counter()
    engine = engine(tokenizer)
    setup_s = time.perf_counter() - started
    compile_s, mask_us, refused = [], [], {}
    gold, caught, faults, shapes = 0, 0, 0, {}
    for name, schema in schemas.items():
        started = time.perf_counter()
        try:
            begin = engine.compile(schema)
            begin()
        except Exception as error:  # engines raise what they like; it is the finding
            refused[name] = f"{type(error).__name__}: {error}"[:160]
            continue
        compile_s.append(time.perf_counter() - started)
        for row in rows[name]:
            gold += walk_tokens(engine, begin(), row["answer"], tokenizer, mask_us)
            for kind, value in broken(row["answer"], schema).items():
                passed = walk_tokens(engine, begin(), value, tokenizer, None)
                faults, caught = faults + 1, caught + (not passed)
                if passed:
                    shapes[kind] = shapes.get(kind, 0) + 1
    n = sum(len(rows[name]) for name in schemas)
    return {
        "setup_s": setup_s,
        "compile_s_median": statistics.median(compile_s) if compile_s else None,
        "mask_us_median": statistics.median(mask_us) if mask_us else None,
        "mask_us_p99": sorted(mask_us)[int(len(mask_us) * 0.99)] if mask_us else None,
        "schemas": len(schemas),
        "schemas_refused": refused,
        "gold_allowed": gold,
        "gold": n,
        "faults_blocked": caught,
        "faults": faults,
        "faults_let_through": shapes,
    }


def measure_batch(engine, schemas, rows, tokenizer, rounds=40):
    """Mask times of a batch of answers under different schemas, in one call and one by one."""
    engine, states = engine(tokenizer), []
    for k, (name, schema) in enumerate(schemas.items()):
        state = engine.compile(schema)()
        ids = tokenizer.encode(json.dumps(rows[name][0]["answer"], ensure_ascii=False))
        for token in ids[: len(ids) * (k + 1) // (len(schemas) + 1)]:
            assert engine.take(state, engine.mask(state), token), (name, token)
        states.append(state)
    together = engine.batch(states)
    entry = {"answers": len(states), "one_call": together is not None, "threads": os.cpu_count()}
    if together:
        fill, bits = together
        fill()
        for row, state in zip(bits, states, strict=True):  # the same masks, or the time says nothing
            single = np.frombuffer(np.ascontiguousarray(engine.mask(state)), dtype=np.int32)
            assert (row == single[: len(row)]).all()
        entry["one_call_us_median"] = median_us(fill, rounds)
    alone = getattr(engine, "alone", engine.mask)
    entry["one_by_one_us_median"] = median_us(lambda: [alone(s) for s in states], rounds)
    return entry


def median_us(call, rounds):
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e6)
    return statistics.median(times)


def walk_tokens(engine, state, value, tokenizer, times):
    """Whether the engine allows every token of an answer, and the stop token behind it."""
    ids = [*tokenizer.encode(json.dumps(value, ensure_ascii=False)), engine.stop]
    for token in ids:
        started = time.perf_counter()
        mask = engine.mask(state)
        if times is not None:
            times.append((time.perf_counter() - started) * 1e6)
        if not engine.take(state, mask, token):
            return False
    return True


def installed_mib(names):
    """Size of installed distributions, in MiB."""
    total = 0
    for name in names:
        files = importlib.metadata.files(name) or []
        total += sum(Path(f.locate()).stat().st_size for f in files if Path(f.locate()).is_file())
    return total / 2**20


def main(target, part=""):
    tokenizer = modeling.load_tokenizer(get_profile("cpu"))
    folder = ROOT / "data" / "structured"
    schemas = {p.stem: json.loads(p.read_text()) for p in sorted((folder / "schemas").glob("*.json"))}
    rows = {name: [] for name in schemas}
    for row in rows_of(folder / "test.jsonl"):
        if row["kind"] == "json" and len(rows[row["schema"]]) < 12:
            rows[row["schema"]].append(row)
    engines = (LLGuidance, XGrammar, OutlinesCore)
    if part == "batch":
        result = read_json(Path(target))
        assert result["hardware"] == hardware(get_profile("cpu")), "figures of two machines in one file"
        for engine in engines:
            batch = measure_batch(engine, schemas, rows, tokenizer)
            result["engines"][engine.name]["batch"] = batch
            print(engine.name, json.dumps(batch, indent=1))
        write_json(Path(target), result)
        return
    result = {"hardware": hardware(get_profile("cpu")), "n_schemas": len(schemas), "engines": {}}
    for engine in engines:
        entry = measure(engine, schemas, rows, tokenizer)
        entry["batch"] = measure_batch(engine, schemas, rows, tokenizer)
        entry["version"] = importlib.metadata.version(engine.packages[0])
        entry["install_mib"] = installed_mib(engine.packages) + sum(mib for _, mib in engine.extra)
        entry["requires_also"] = dict(engine.extra)
        result["engines"][engine.name] = entry
        print(engine.name, json.dumps(entry, indent=1))
    write_json(Path(target), result)


if __name__ == "__main__":
    main(*sys.argv[1:])
