"""How fast an engine reads prompts and generates, at several batch sizes: ``text-generation-benchmark``."""
