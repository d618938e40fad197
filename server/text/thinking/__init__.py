"""What a model thinks before it answers: found in its text, and kept apart from the answer.

formats.py    the forms in which models think, and which one a chat template belongs to
splitter.py   text → thinking and answer, between marks such as <think> and </think>
harmony.py    the same for gpt-oss' channels, which hold calls too
parser.py     text → events of one answer: thinking, content and calls
count.py      how many tokens of an answer are thinking
"""
