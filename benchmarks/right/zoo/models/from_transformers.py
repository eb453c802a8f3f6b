"""Language models of Hugging Face transformers."""

from typing import Any

from torch import nn

from benchmarks.right.zoo import tasks
from benchmarks.right.zoo.entry import Entry
from benchmarks.right.zoo.models.transformers_settings import PAIR, SMALL, entry, of_config
from benchmarks.right.zoo.tasks import WORDS


def causal(name: str, family: str, **settings: Any) -> Entry:
    """A language model; ``settings`` beside, or in place of, the common ones."""
    common = {**SMALL, **settings}
    build = of_config(f"{family}ForCausalLM", f"{family}Config", **common)
    return entry(name, build, tasks.words(), tasks.continue_words)


def checkpointed(name: str, use_reentrant: bool) -> Entry:
    """LLaMA with gradient checkpointing."""
    plain = of_config("LlamaForCausalLM", "LlamaConfig", **SMALL, num_key_value_heads=2)

    def build() -> nn.Module:
        model = plain()
        settings = {"use_reentrant": use_reentrant}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        return model

    return entry(name, build, tasks.words(), tasks.continue_words)


def own_names(name: str, kind: str, config: str, **settings: Any) -> Entry:
    """A language model whose configuration has names of its own."""
    return entry(name, of_config(kind, config, **settings), tasks.words(), tasks.continue_words)


def masked(name: str, family: str, **settings: Any) -> Entry:
    """A masked language model."""
    build = of_config(f"{family}ForMaskedLM", f"{family}Config", **{**SMALL, **settings})
    return entry(name, build, tasks.words(), tasks.tag_words)


def translator(name: str, kind: str, config: str, **settings: Any) -> Entry:
    """An encoder and a decoder."""
    return entry(name, of_config(kind, config, **settings), tasks.translations(), tasks.translate)


GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
MOE: dict[str, Any] = {"num_key_value_heads": 2, "num_experts_per_tok": 2}

ENTRIES = (
    own_names("GPT-2", "GPT2LMHeadModel", "GPT2Config", vocab_size=WORDS, **GPT2),
    own_names("GPT-J", "GPTJForCausalLM", "GPTJConfig", vocab_size=WORDS, rotary_dim=4, **GPT2),
    own_names("GPT-BigCode", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", vocab_size=WORDS, **GPT2),
    own_names(
        "BLOOM",
        "BloomForCausalLM",
        "BloomConfig",
        vocab_size=WORDS,
        hidden_size=32,
        n_layer=2,
        n_head=4,
    ),
    own_names(
        "MPT",
        "MptForCausalLM",
        "MptConfig",
        vocab_size=WORDS,
        d_model=32,
        n_layers=2,
        n_heads=4,
        max_seq_len=32,
    ),
    causal("GPT-NeoX", "GPTNeoX"),
    causal("OPT", "OPT", ffn_dim=48, word_embed_proj_dim=32),
    causal("Falcon", "Falcon"),
    causal("LLaMA", "Llama", num_key_value_heads=2),
    causal("LLaMA, tied embeddings", "Llama", num_key_value_heads=2, tie_word_embeddings=True),
    checkpointed("LLaMA, gradient checkpointing", use_reentrant=False),
    checkpointed("LLaMA, reentrant gradient checkpointing", use_reentrant=True),
    causal("Mistral", "Mistral", num_key_value_heads=2, sliding_window=4),
    causal("Qwen2", "Qwen2", num_key_value_heads=2),
    causal("Gemma 2", "Gemma2", num_key_value_heads=2, head_dim=8, sliding_window=4),
    causal("Phi", "Phi"),
    causal("Mixtral, experts", "Mixtral", num_local_experts=4, **MOE),
    causal(
        "Qwen2-MoE, experts",
        "Qwen2Moe",
        num_experts=4,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        **MOE,
    ),
    causal("OLMoE, experts", "Olmoe", num_experts=4, **MOE),
    causal("Mamba, slow path", "Mamba", state_size=8),
    causal(
        "RecurrentGemma",
        "RecurrentGemma",
        lru_width=32,
        num_key_value_heads=1,
        head_dim=8,
        attention_window_size=8,
        use_cache=False,
    ),
    masked("BERT", "Bert"),
    masked("RoBERTa", "Roberta", max_position_embeddings=34),
    masked("DistilBERT", "DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    masked("ALBERT, shared layers", "Albert", embedding_size=16),
    masked("DeBERTa V2", "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    masked("FNet", "FNet"),
    masked("ModernBERT", "ModernBert", global_attn_every_n_layers=2, local_attention=4),
    own_names(
        "XLNet",
        "XLNetLMHeadModel",
        "XLNetConfig",
        vocab_size=WORDS,
        d_model=32,
        n_layer=2,
        n_head=4,
        d_inner=48,
    ),
    translator(
        "T5",
        "T5ForConditionalGeneration",
        "T5Config",
        vocab_size=WORDS,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    ),
    translator("BART", "BartForConditionalGeneration", "BartConfig", **PAIR),
    translator("Pegasus", "PegasusForConditionalGeneration", "PegasusConfig", **PAIR),
)
