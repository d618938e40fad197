"""One script per system. Each runs alone in that system's own environment: it imports nothing of
this project but `job_loop` beside it (which needs nothing but Python), and `glidecape_engine`.

    python bench/peers/workers/llama_cpp_batch.py '{"model": …, "threads": 2, …}'
"""
