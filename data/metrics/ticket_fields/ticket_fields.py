"""Field F1 and schema validity of tickets as a local `evaluate` module: no hub, no network."""

import datasets
import evaluate

from sft_utils.scores import scoring
from sft_utils.task.tickets import SCHEMA


class TicketFields(evaluate.Metric):
    """`evaluate.load("data/metrics/ticket_fields")`: the metrics of `sft_utils.scores.scoring`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Micro F1 over filled ticket fields, share of schema-valid answers.",
            citation="",
            inputs_description="predictions: answers as text; references: tickets as JSON text",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        scores = [
            scoring.score(answer, gold, SCHEMA)
            for answer, gold in zip(predictions, scoring.read_golds(references), strict=True)
        ]
        return {
            "field_f1": scoring.field_f1(scores),
            "schema_valid": sum(s.schema_valid for s in scores) / len(scores),
            "exact_match": sum(s.exact for s in scores) / len(scores),
        }
