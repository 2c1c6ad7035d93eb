"""Which family runs which checkpoint: a plain table, families imported when asked for."""

from importlib import import_module

from segue.models.base import Model
from segue.models.config import HFConfig

__all__ = ["FAMILIES", "find_family"]

FAMILIES: dict[str, tuple[str, str]] = {
    "bart": ("bart", "BartForConditionalGeneration"),
    "bloom": ("bloom", "BloomForCausalLM"),
    "falcon": ("falcon", "FalconForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma", "GemmaForCausalLM"),
    "gemma3": ("gemma", "GemmaForCausalLM"),
    "gemma3_text": ("gemma", "GemmaForCausalLM"),
    "gpt2": ("gpt2", "GPT2ForCausalLM"),
    "gpt_neo": ("gpt_neo", "GPTNeoForCausalLM"),
    "gpt_neox": ("gpt_neox", "GPTNeoXForCausalLM"),
    "llama": ("llama", "LlamaForCausalLM"),
    "mistral": ("llama", "LlamaForCausalLM"),
    "mt5": ("t5", "T5ForConditionalGeneration"),
    "opt": ("opt", "OPTForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
    "qwen2": ("llama", "LlamaForCausalLM"),
    "qwen3": ("llama", "LlamaForCausalLM"),
    "RefinedWeb": ("falcon", "FalconForCausalLM"),
    "RefinedWebModel": ("falcon", "FalconForCausalLM"),
    "t5": ("t5", "T5ForConditionalGeneration"),
}
"""config.json's ``model_type`` → (module of this package, class)."""


def find_family(config: HFConfig) -> type[Model] | None:
    """The class written here for this checkpoint, None where there is none (the fallback then runs it)."""
    entry = FAMILIES.get(config.model_type)
    if entry is None:
        return None
    module, name = entry
    family = getattr(import_module(f"segue.models.{module}"), name)
    assert issubclass(family, Model)
    return family
