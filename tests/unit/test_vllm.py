"""vLLM's metrics and dcgm-exporter's page, as pure readings."""

import pytest

from aftershock import dcgm, vllm
from aftershock.errors import InvalidInput, Unsupported
from aftershock.lab.model_server.metrics import Metrics
from aftershock.slo.objectives import NoMeasurement

OLD = """\
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="m"} 0.97
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{model_name="m"} 3
# TYPE vllm:time_per_output_token_seconds histogram
vllm:time_per_output_token_seconds_bucket{le="0.1",model_name="m"} 8
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 10
"""
DCGM = """\
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b",modelName="NVIDIA H100 80GB HBM3"} 91
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",modelName="NVIDIA H100 80GB HBM3"} 12
# TYPE DCGM_FI_DEV_XID_ERRORS gauge
DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-b",modelName="NVIDIA H100 80GB HBM3"} 79
"""


def page(*ttfts: float) -> vllm.Page:
    metrics = Metrics("m")
    for seconds in ttfts:
        metrics.ttft.observe(seconds)
    return vllm.parse(metrics.text(3, 2, 0.5, 4))


def test_percentiles_come_from_sums_of_buckets_never_from_means_of_percentiles() -> None:
    before = {"a": page(0.03), "b": page()}
    after = {"a": page(0.03, *[0.03] * 98), "b": page(2.0, 2.0)}
    added = vllm.increase("ttft", before, after)
    assert max(added.values()) == 100
    assert 0.02 < vllm.percentile_s(added, 50) < 0.04
    assert 1.0 < vllm.percentile_s(added, 99) < 2.5, "one of two replicas is slow"
    assert vllm.share_within(added, 1.0) == pytest.approx(0.98)


def test_a_replica_that_restarted_counts_from_nothing() -> None:
    added = vllm.increase("ttft", {"a": page(*[0.03] * 50)}, {"a": page(2.0)})
    assert max(added.values()) == 1 and vllm.share_within(added, 0.04) == 0


def test_what_nobody_can_know_is_an_error_with_a_name() -> None:
    with pytest.raises(NoMeasurement, match="no request was measured in this window"):
        vllm.increase("ttft", {"a": page(0.1)}, {"a": page(0.1)})
    added = vllm.increase("ttft", {}, {"a": page(0.1, 9999.0)})
    with pytest.raises(InvalidInput, match=r"threshold_s 2 is on no edge: .* 1, 2.5, 5"):
        vllm.share_within(added, 2.0)
    with pytest.raises(NoMeasurement, match="beyond 2560 s, the last edge"):
        vllm.percentile_s(added, 99)
    with pytest.raises(InvalidInput, match="percent 100"):
        vllm.percentile_s(added, 100)
    with pytest.raises(InvalidInput, match="one of ttft, itl, e2e"):
        page().histogram("p99")


def test_old_names_are_read_as_the_new_ones() -> None:
    old, new = vllm.parse(OLD), page()
    assert (old.number("kv_cache_usage"), new.number("kv_cache_usage")) == (0.97, 0.5)
    assert (old.number("preemptions"), new.number("preemptions")) == (3, 4)
    assert vllm.total("waiting", [new, new]) == 4
    assert old.histogram("itl") == {0.1: 8, float("inf"): 10}
    with pytest.raises(Unsupported, match="no vllm:num_requests_running on"):
        old.number("running")


def test_dcgm_exporters_gpus_are_read_in_their_order() -> None:
    first, second = dcgm.cards(DCGM)
    assert (first["index"], first["uuid"], first["utilisation_percent"]) == (0, "GPU-a", 12)
    assert (second["last_xid"], first["last_xid"], second["power_w"]) == (79, None, None)
