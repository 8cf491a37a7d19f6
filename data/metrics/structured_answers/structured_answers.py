"""Structured answers as a local `evaluate` module: any JSON Schema, no hub, no network."""

import datasets
import evaluate

from sft_utils.scores import scoring, taxonomy


class StructuredAnswers(evaluate.Metric):
    """`evaluate.load("data/metrics/structured_answers")`: `sft_utils.scores.scoring` and `.taxonomy`.

    The schema is no column, so it is a keyword of `compute`, which evaluate 0.4.6 hands to
    `_compute` as it is; `load` has no place for it (its keywords configure the module's cache).
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Shares of answers that parse, obey a schema and equal the gold object; micro F1 over filled leaf fields; primary failure classes.",
            citation="",
            inputs_description="predictions: answers as text; references: gold values as JSON text; schema: object, JSON text or path below the repository; sources (optional): input texts; stopped (optional): ended by a stop token",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, *, schema, sources=None, stopped=None):
        # Without sources every text counts as found (in the answer itself): an invented one is then
        # a wrong value, never a hallucinated one.
        golds, n = scoring.read_golds(references), len(predictions)
        stopped = [True] * n if stopped is None else stopped
        for name, column in (("sources", sources), ("stopped", stopped)):
            if column is not None and len(column) != n:
                raise ValueError(f"Mismatch in the number of predictions ({n}) and {name} ({len(column)})")
        scores = [scoring.score(a, g, schema) for a, g in zip(predictions, golds, strict=True)]
        failures = [
            taxonomy.classify(
                answer, gold=gold, schema=schema, stopped=end,
                source_text=answer if sources is None else sources[i],
            )
            for i, (answer, gold, end) in enumerate(zip(predictions, golds, stopped, strict=True))
        ]  # fmt: skip
        return {
            "parses": sum(s.parses for s in scores) / n,
            "schema_valid": sum(s.schema_valid for s in scores) / n,
            "field_f1": scoring.field_f1(scores),
            "exact_match": sum(s.exact for s in scores) / n,
            "classes": taxonomy.counts(failures),
        }
