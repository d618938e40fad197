"""Parts of answers that several endpoints give."""
