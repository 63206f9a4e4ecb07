"""What engines say about themselves: names, slots, and how busy they are; anything else counts as nothing."""

from typing import Any

import pytest

from keld.providers.base import Load
from keld.providers.engine import load_of, root_of, served, slots

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 12.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
"""


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (VLLM, Load(running=16, waiting=3, cache_use=0.75)),
        ("vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:gpu_cache_usage_perc 0.5\n", Load(running=1, waiting=0, cache_use=0.5)),
        ("sglang:num_running_reqs{m=\"x\"} 8\nsglang:num_queue_reqs{m=\"x\"} 2\nsglang:token_usage 0.91\n", Load(running=8, waiting=2, cache_use=0.91)),
        ("llamacpp:requests_processing 2\nllamacpp:requests_deferred 5\n", Load(running=2, waiting=5)),
        ("tgi_batch_current_size 32\ntgi_queue_size 7\n", Load(running=32, waiting=7)),
        ("llamacpp:requests_processing 2\n", None),
        ("<html>It works!</html>", None),
        ("", None),
    ],
    ids=["vllm", "old vllm", "sglang", "llama.cpp", "tgi", "half", "a page", "nothing"],
)  # fmt: skip
def test_how_busy_an_engine_is(text: str, load: Load | None) -> None:
    assert load_of(text) == load


@pytest.mark.parametrize(
    ("body", "lacks"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, True),
        ({"data": [{"id": "m"}]}, False),
        ({"data": [{"id": "m:latest", "owned_by": "library"}]}, False),
        ({"data": [{"id": "/models/x.gguf", "owned_by": "llamacpp"}]}, False),
        ({"data": [{"id": "openai/*"}]}, False),
        ({"data": []}, False),
        ({"detail": "Not Found"}, False),
        (None, False),
    ],
    ids=str,
)
def test_only_a_list_without_the_name_says_that_a_model_is_not_there(body: Any, lacks: bool) -> None:
    """Ollama adds a tag, llama.cpp answers any name, gateways have patterns; no list proves nothing."""
    assert served(body).lacks("m") is lacks


@pytest.mark.parametrize(("body", "found"), [({"total_slots": 4}, 4), ({"total_slots": "4"}, None), ({}, None), (None, None), ([], None)])
def test_the_slots_of_an_engine(body: Any, found: int | None) -> None:
    assert slots(body) == found


def test_the_pages_of_an_engine_are_beside_its_base_url() -> None:
    assert root_of("http://127.0.0.1:8000/v1/") == root_of("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
    assert root_of("https://gate.example/llm/v1") == "https://gate.example/llm"
