"""Several engines behind one API, as a deployment of Ray Serve.

    front     the process that has the API: this server, as with one engine
    replica   a process of Ray with an engine of its own

Ray Serve starts the replicas, watches over them, replaces dead ones, scales and drains them. What
is ours: the engine's interface over its calls (`engine.py`), and which replica gets a request
(`routing`). Imported only where there are replicas: it needs the extra `ray`.
"""
