"""Small configurations of Hugging Face transformers, and how its models are built."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from benchmarks.right.zoo.entry import Batch, Entry
from benchmarks.right.zoo.tasks import WORDS

SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PAIR: dict[str, Any] = {  # of an encoder and a decoder
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def of_config(kind: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    """A class of transformers, from the settings of its configuration."""

    def build() -> nn.Module:
        import transformers

        configuration = getattr(transformers, config)(**settings)
        configuration._attn_implementation = "eager"  # the same formula in every version
        return getattr(transformers, kind)(configuration)

    return build


def entry(
    name: str,
    build: Callable[[], nn.Module],
    draw: Callable[[int], Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
) -> Entry:
    return Entry(name, "transformers", build, draw, loss)
