"""Tensor kernels. `reference` is their definition in torch; faster ones have the same signatures
and are chosen in `dispatch`."""
