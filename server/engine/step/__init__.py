"""One step on the models. `host/` runs any plan, stage by stage; `device/` runs decoding sequences
as CUDA graphs, with the same stages under the same names. Beside them lies what both take: the
model, the tensors of a step's nodes, the KV pool, sampling, a tree's walk, results and figures."""
