"""The prediction against allocated bytes of real training steps."""

import pytest

from tests.bench import memory_prediction as bench


@pytest.mark.slow
@pytest.mark.parametrize("name", bench.CASES)
def test_prediction_is_within_15_percent_of_the_measured_peak(name):
    found = bench.measure(name)
    print(f"{name}: measured {found['measured_mib']:.1f} MiB, predicted {found['predicted_mib']:.1f}, "
          f"ratio {found['ratio']:.3f}")  # fmt: skip
    assert found["ratio"] == pytest.approx(1, abs=bench.BOUND)


def test_the_bound_can_fail():
    """Without the activations, or with logits of every token, no case would pass."""
    from sft_utils.train import memory

    config = bench.SHAPES["llama"]()
    options = {"rank": 16, "batch_size": 2, "bits": 16, "padded": False}
    whole = memory.predict(config, tokens=768, **options)
    for wrong in (memory.predict(config, tokens=768, checkpointing=True, **options),
                  memory.predict(config, tokens=768, loss_chunk=2 * 768, **options)):  # fmt: skip
        assert abs(wrong.total_gib / whole.total_gib - 1) > bench.BOUND
