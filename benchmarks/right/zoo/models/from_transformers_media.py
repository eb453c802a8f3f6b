"""Models of Hugging Face transformers for sound, images, pairs and series."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.right.zoo import tasks
from benchmarks.right.zoo.entry import Batch, Entry
from benchmarks.right.zoo.models.transformers_settings import PAIR, SMALL, entry, of_config
from benchmarks.right.zoo.tasks import CLASSES, WORDS

SPEECH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": CLASSES,
}


def vision(name: str, family: str, **settings: Any) -> Entry:
    """A classifier of images."""
    build = of_config(f"{family}ForImageClassification", f"{family}Config", **settings)
    return entry(name, build, tasks.images(32), tasks.classify)


def waves(n: int) -> Batch:
    """Sound and a class of its own for each."""
    return torch.randn(n, 800), torch.randint(CLASSES, (n,))


def spectrograms(n: int) -> Batch:
    """Mel spectrograms and transcripts."""
    return torch.randn(n, 8, 40), torch.randint(3, WORDS, (n, 7))


def transcribe(whisper: nn.Module, batch: Batch) -> Tensor:
    output = whisper(input_features=batch[0], decoder_input_ids=batch[1])
    return tasks.next_words(output.logits, batch[1])


def captions(n: int) -> Batch:
    """Images, captions, and a target for a pair's similarity."""
    return torch.randn(n, 3, 32, 32), torch.randint(3, WORDS, (n, 9)), torch.rand(n)


def clip() -> nn.Module:
    import transformers

    text = {**SMALL, "projection_dim": 16}
    image = {name: value for name, value in VISION.items() if name != "num_labels"}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=16)
    )


def contrast(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of CLIP, which couples all pairs of the batch."""
    output = model(input_ids=batch[1], pixel_values=batch[0], return_loss=True)
    return output.loss


def pairwise(model: nn.Module, batch: Batch) -> Tensor:
    """A loss of every pair by itself."""
    output = model(input_ids=batch[1], pixel_values=batch[0])
    similarity = (output.image_embeds * output.text_embeds).sum(1)
    return F.mse_loss(model.logit_scale * similarity, batch[2])


def boxes(n: int) -> Batch:
    """Images, and for each query a class and a box."""
    return torch.randn(n, 3, 64, 64), torch.randint(CLASSES, (n, 5)), torch.rand(n, 5, 4)


def detect(model: nn.Module, batch: Batch) -> Tensor:
    """Every query has its own target, so that nothing needs to be matched."""
    output = model(pixel_values=batch[0])
    classes = F.cross_entropy(output.logits.flatten(0, 1), batch[1].flatten())
    return classes + F.l1_loss(output.pred_boxes, batch[2])


def detr() -> nn.Module:
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"]
    )
    settings = {name: value for name, value in PAIR.items() if "token" not in name}
    settings.pop("vocab_size")
    settings.pop("max_position_embeddings")
    configuration = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=5,
        num_labels=CLASSES - 1,
        **settings,
    )
    return transformers.DetrForObjectDetection(configuration)


def series(n: int) -> Batch:
    """Three channels of 32 steps, and their next 8."""
    return torch.randn(n, 32, 3), torch.randn(n, 8, 3)


def forecast(patch_tst: nn.Module, batch: Batch) -> Tensor:
    output = patch_tst(past_values=batch[0], future_values=batch[1])
    return F.mse_loss(output.prediction_outputs, batch[1])


def classify_sound(speech: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(speech(input_values=batch[0]).logits, batch[1])


def reconstruct(mae: nn.Module, batch: Batch) -> Tensor:
    """The masks are drawn from noise that is part of the batch."""
    return mae(pixel_values=batch[0], noise=batch[1]).loss


ENTRIES = (
    entry(
        "Whisper",
        of_config(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            num_mel_bins=8,
            max_source_positions=20,
            max_target_positions=16,
            **{k: v for k, v in PAIR.items() if k != "max_position_embeddings"},
        ),
        spectrograms,
        transcribe,
    ),
    entry(
        "wav2vec 2.0",
        of_config(
            "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", num_labels=CLASSES, **SPEECH
        ),
        waves,
        classify_sound,
    ),
    entry(
        "HuBERT, layer norm",
        of_config(
            "HubertForSequenceClassification",
            "HubertConfig",
            num_labels=CLASSES,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            **SPEECH,
        ),
        waves,
        classify_sound,
    ),
    entry("CLIP, loss of each pair", clip, captions, pairwise),
    entry("CLIP, in-batch loss", clip, captions, contrast),
    entry("DETR", detr, boxes, detect),
    vision("ViT", "ViT", **VISION),
    vision("DINOv2", "Dinov2", **VISION),
    vision(
        "Swin",
        "Swin",
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=CLASSES,
    ),
    vision(
        "SegFormer classifier",
        "Segformer",
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=32,
        num_labels=CLASSES,
    ),
    vision(
        "ConvNeXt",
        "ConvNext",
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_labels=CLASSES,
    ),
    entry(
        "Perceiver",
        of_config(
            "PerceiverForImageClassificationLearned",
            "PerceiverConfig",
            num_latents=8,
            d_latents=32,
            d_model=32,
            num_blocks=1,
            num_self_attends_per_block=2,
            num_self_attention_heads=4,
            num_cross_attention_heads=1,
            image_size=16,
            num_labels=CLASSES,
        ),
        tasks.images(16),
        tasks.classify,
    ),
    entry(
        "masked autoencoder",
        of_config(
            "ViTMAEForPreTraining",
            "ViTMAEConfig",
            decoder_hidden_size=32,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=48,
            **VISION,
        ),
        lambda n: (torch.randn(n, 3, 32, 32), torch.rand(n, 16)),
        reconstruct,
    ),
    entry(
        "PatchTST",
        of_config(
            "PatchTSTForPrediction",
            "PatchTSTConfig",
            num_input_channels=3,
            context_length=32,
            prediction_length=8,
            patch_length=4,
            patch_stride=4,
            d_model=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=48,
            norm_type="layernorm",
            loss="mse",
        ),
        series,
        forecast,
    ),
)
