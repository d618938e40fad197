"""Sixteen short questions of different kinds, so that streams don't share their prompts."""

PROMPTS = (
    "Why is the sky blue?",
    "Write a short poem about the sea in winter.",
    "Explain how a bicycle stays upright.",
    "What is the difference between a virus and a bacterium?",
    "Give me a recipe for tomato soup.",
    "Write a Python function that reverses a linked list.",
    "Summarise the plot of Romeo and Juliet.",
    "How do I ask my manager for a day off?",
    "What are prime numbers, and why do they matter?",
    "Describe the taste of coffee to someone who never had any.",
    "List five ways to save electricity at home.",
    "Tell me a story about a fox and a clockmaker.",
    "How does a refrigerator work?",
    "Translate 'good morning, my friends' into French and Spanish.",
    "Which planets have rings, and what are they made of?",
    "Write a polite reply to a customer whose parcel is late.",
)
