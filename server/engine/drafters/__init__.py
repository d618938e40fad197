"""What proposes tokens: the interface (`drafter.py`) and its kinds, a GliDe draft, a small model,
and prompt lookup."""
