"""A step, and a request that has finished."""

from server.engine.outputs import (
    FinishedRequest,
    StepStats,
)
from server.engine.types import Request, RequestId, SamplingParams, SpeculationParams

REQUEST = Request(
    RequestId("r"),
    (1, 2, 3, 4, 5),
    SamplingParams(max_tokens=7),
    speculation=SpeculationParams("cape"),
)
FINISHED = FinishedRequest(
    request=REQUEST,
    reason="length",
    num_prompt_tokens=5,
    num_output_tokens=7,
    queue_seconds=0.4,
    prefill_seconds=0.6,
    decode_seconds=2.2,
    e2e_seconds=3.2,
)
STEP = StepStats(
    num_running=2,
    num_waiting=3,
    kv_usage=0.25,
    num_prompt_tokens=11,
    num_generation_tokens=4,
    num_preemptions=1,
    prefix_cache_queries=20,
    prefix_cache_hits=16,
    times_to_first_token=(0.03,),
    inter_token=((0.06, 3), (0.5, 1)),
    finished=(FINISHED,),
    step_seconds=0.04,
)
