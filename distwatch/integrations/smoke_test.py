"""One short generation, step by step: the first forward shows whether the model is placed wrongly."""

from __future__ import annotations

from typing import Any

from distwatch.integrations.load_hooks import in_phase
from distwatch.integrations.loads import Load

TOKENS = 4


def generate_shortly(under_way: Load | None, model: Any) -> list[int]:
    """Generates a few tokens greedily from a prompt of one; each forward is a separate step.

    Raises:
        Exception: whatever the model's forward raises.
    """
    import torch

    config = getattr(model, "config", None)
    first = next((t for t in _starts(config) if isinstance(t, int) and t >= 0), 0)
    device = _input_device(model)
    tokens = torch.tensor([[first]], device=device)
    with in_phase(under_way, "smoke test", total=TOKENS) as step, torch.no_grad():
        for number in range(1, TOKENS + 1):
            if under_way is not None:
                label = f"forward of {tokens.shape[1]} tokens"
                under_way.agent.progress_step(step, number, total=TOKENS, label=label)
            logits = model(input_ids=tokens).logits
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1).to(device)], dim=1)
    return [int(token) for token in tokens[0, 1:].tolist()]


def _starts(config: Any) -> tuple[Any, ...]:
    return (getattr(config, "bos_token_id", None), getattr(config, "eos_token_id", None))


def _input_device(model: Any) -> Any:
    """The device for inputs: the embedding's, or the one from which accelerate moves them."""
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    parameters = list(embedding.parameters()) if embedding is not None else []
    devices = [p.device for p in (*parameters, *model.parameters()) if p.device.type != "meta"]
    return devices[0] if devices else "cpu"
