"""Many architectures with random weights: the zoo's at the size of their papers, and those of `transformers` in small
configurations of the same structure, with inputs that they take."""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tersenet.models import MODELS, input_shape

ZOO = {
    "ResNet": ("resnet18", "resnet34", "resnet50", "resnet20", "resnet56", "resnet110"),
    "DenseNet": ("densenet40", "densenet121"),
    "VGG": ("vgg11_bn", "vgg16_bn", "vgg16"),
    "AlexNet": ("alexnet",),
    "ViT": ("vit_*",),
}
TEXT = {"vocab_size": 120, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
WORDS = {**TEXT, "intermediate_size": 128, "max_position_embeddings": 64}
GROUPED = {**WORDS, "num_key_value_heads": 2}
PATCHES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
PICTURE = {**PATCHES, "image_size": 64, "patch_size": 16}
WINDOWS = {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
SPEECH = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
WAVES = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    **{"conv_dim": [32, 32, 32], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3]},
    **{"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
}
TRANSFORMERS: list[tuple[str, str, dict[str, Any], str]] = [  # family, class, configuration, kind of input
    ("BERT", "BertForSequenceClassification", WORDS, "text"),
    ("RoBERTa", "RobertaForSequenceClassification", WORDS, "text"),
    ("DistilBERT", "DistilBertForSequenceClassification", {"vocab_size": 120, "dim": 64, "n_layers": 3, "n_heads": 4,
                                                           "hidden_dim": 128}, "text"),
    ("ALBERT", "AlbertForSequenceClassification", {**WORDS, "embedding_size": 32}, "text"),
    ("ELECTRA", "ElectraForSequenceClassification", {**WORDS, "embedding_size": 32}, "text"),
    ("GPT-2", "GPT2LMHeadModel", {"vocab_size": 120, "n_embd": 64, "n_layer": 3, "n_head": 4, "use_cache": False},
     "text"),
    ("T5", "T5EncoderModel", {"vocab_size": 120, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 3,
                              "num_heads": 4}, "text"),
    ("T5", "T5ForConditionalGeneration", {"vocab_size": 120, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
                                          "num_heads": 4, "use_cache": False}, "text pair"),
    ("Llama", "LlamaForCausalLM", {**WORDS, "use_cache": False}, "text"),
    ("Mistral", "MistralForCausalLM", {**GROUPED, "use_cache": False}, "text"),
    ("Qwen2", "Qwen2ForCausalLM", {**GROUPED, "use_cache": False}, "text"),
    ("OPT", "OPTForCausalLM", {"vocab_size": 120, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                               "ffn_dim": 128, "word_embed_proj_dim": 64, "use_cache": False}, "text"),
    ("ViT", "ViTForImageClassification", PICTURE, "image 64"),
    ("DeiT", "DeiTForImageClassification", PICTURE, "image 64"),
    ("BEiT", "BeitForImageClassification", PICTURE, "image 64"),
    ("Data2Vec", "Data2VecVisionForImageClassification", PICTURE, "image 64"),
    ("DINOv2", "Dinov2ForImageClassification", PICTURE, "image 64"),
    ("DPT", "DPTForDepthEstimation", {**PICTURE, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3],
                                      "neck_hidden_sizes": [16] * 4,
                                      "fusion_hidden_size": 32}, "image 64"),
    ("CLIP", "CLIPVisionModel", PICTURE, "image 64"),
    ("Swin", "SwinForImageClassification", WINDOWS, "image 64"),
    ("Swin V2", "Swinv2ForImageClassification", WINDOWS, "image 64"),
    ("ConvNeXt", "ConvNextForImageClassification", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
     "image 64"),
    ("ConvNeXt V2", "ConvNextV2ForImageClassification", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
     "image 64"),
    ("MobileNet", "MobileNetV1ForImageClassification", {}, "image 64"),
    ("MobileNet", "MobileNetV2ForImageClassification", {}, "image 64"),
    ("RegNet", "RegNetForImageClassification", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 2, 1],
                                                "embedding_size": 16, "groups_width": 8}, "image 64"),
    ("ResNet", "ResNetForImageClassification", {}, "image 64"),
    ("BiT", "BitForImageClassification", {"depths": [1, 1, 1, 1]}, "image 64"),
    ("EfficientNet", "EfficientNetForImageClassification", {}, "image 64"),
    ("SegFormer", "SegformerForSemanticSegmentation", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
                                                       "decoder_hidden_size": 32}, "image 64"),
    ("PVT", "PvtForImageClassification", {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
                                          "num_attention_heads": [1, 2, 3, 4]}, "image 64"),
    ("LeViT", "LevitForImageClassification", {}, "image 224"),
    ("CvT", "CvtForImageClassification", {"embed_dim": [16, 48, 96], "num_heads": [1, 3, 6], "depth": [1, 2, 3]},
     "image 64"),
    ("PoolFormer", "PoolFormerForImageClassification", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
     "image 64"),
    ("FocalNet", "FocalNetForImageClassification", {"image_size": 64, "embed_dim": 32, "depths": [1, 1, 1, 1]},
     "image 64"),
    ("Whisper", "WhisperForAudioClassification", {**SPEECH, "num_mel_bins": 16, "max_source_positions": 32},
     "spectrogram"),
    ("Wav2Vec2", "Wav2Vec2ForSequenceClassification", WAVES, "wave"),
]  # fmt: skip


def models(only: str, seed: int) -> Iterator[tuple[str, str, nn.Module, Any]]:
    """(name, family, model, inputs) of every model whose name or family matches."""
    for family, patterns in ZOO.items():
        for name in (name for pattern in patterns for name in fnmatch.filter(sorted(MODELS), pattern)):
            if _wanted(only, name, family):
                torch.manual_seed(seed)
                yield name, family, MODELS[name](), torch.randn(1, *input_shape(name))
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: the zoo alone")
        return
    for family, cls, settings, kind in TRANSFORMERS:
        if _wanted(only, cls, family):
            torch.manual_seed(seed)
            yield cls, family, _transformer(cls, settings), _inputs(kind)


def _wanted(only: str, *names: str) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern) for name in names for pattern in only.lower().split(","))


def _transformer(cls: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    kind = getattr(transformers, cls)
    return kind(kind.config_class(**settings))


def _inputs(kind: str) -> Any:
    words = torch.randint(2, 100, (2, 12))
    match kind.split():
        case ["text"]:
            return {"input_ids": words}
        case ["text", "pair"]:
            return {"input_ids": words, "decoder_input_ids": words[:, :7]}
        case ["image", size]:
            return {"pixel_values": torch.randn(1, 3, int(size), int(size))}
        case ["spectrogram"]:
            return {"input_features": torch.randn(1, 16, 64)}
    return {"input_values": torch.randn(1, 1600)}


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """Norm statistics, γ, β and biases that no initialisation gives."""
    for name, tensor in model.named_buffers():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        if parameter.ndim <= 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)
