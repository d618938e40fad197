"""Making a draft for a model: text, training, evaluation."""
