"""A load that stalls where it reads no file: in the model's own code, in dispatch, for a lock."""

import distwatch.auto  # noqa: F401, I001
import os
import sys
import threading
import time

from steps import WORK, step
from transformers import LlamaConfig, LlamaForCausalLM

PHASE = sys.argv[1]
CHECKPOINT = os.path.join(WORK, "checkpoint")
CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
)


def stall() -> None:
    step("stalled")
    if PHASE == "lock":
        held = threading.Lock()
        held.acquire()
        held.acquire()
    while True:
        time.sleep(1)


class Stalls(LlamaForCausalLM):
    """The user's own subclass, as modeling files with trust_remote_code have them."""

    built = False

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        if PHASE == "model":
            stall()
        self.built = True

    def tie_weights(self, *args: object, **kwargs: object) -> None:
        super().tie_weights(*args, **kwargs)
        # A constructor ties weights, too.
        if self.built and PHASE in ("own code", "lock"):
            stall()


LlamaForCausalLM(CONFIG).save_pretrained(CHECKPOINT, max_shard_size="8KB")
if PHASE == "dispatch":
    # The function that transformers' own dispatch calls.
    import transformers.integrations.accelerate as dispatching

    dispatching.dispatch_model = lambda *args, **kwargs: stall()
step("loading")
# A model in one place needs no dispatch.
places = {"model": "cpu", "lm_head": "disk"} if PHASE == "dispatch" else None
Stalls.from_pretrained(CHECKPOINT, device_map=places, offload_folder=WORK)
