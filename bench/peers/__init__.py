"""`glidecape bench peers`: other systems and this one, interleaved, on the same model."""
