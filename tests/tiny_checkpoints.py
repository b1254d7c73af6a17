"""Tiny checkpoints of real architectures with random weights, saved as a user would have them; no download."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

WORDS = ("a photo of a red blue green circle square", "cliff rock wall water grass field", "dog cat text date stamp")
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(corpus: Iterable[str] = WORDS, *, length: int = 16, vocab_size: int = 600) -> CLIPTokenizer:
    """Trains CLIP's byte-level BPE on a few words; every other text is spelled out in bytes."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=EOS))
    trained.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=[],
        show_progress=False,
    )
    trained.train_from_iterator(corpus, trainer)
    with tempfile.TemporaryDirectory() as folder:
        trained.model.save(folder)
        vocab = json.loads(Path(folder, "vocab.json").read_text())
        lines = Path(folder, "merges.txt").read_text().splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    for letter in sorted(alphabet):
        for token in (letter, letter + "</w>"):
            vocab.setdefault(token, len(vocab))
    for token in (BOS, EOS):
        vocab[token] = len(vocab)  # the end must be the largest id: CLIP pools where the id is largest
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def text_settings(tokenizer: CLIPTokenizer, *, width: int = 32) -> dict:
    """Returns the text half of a CLIP or OWL-ViT configuration."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": 0,
    }


def vision_settings(size_px: int, *, width: int = 32) -> dict:
    """Returns the image half of a CLIP or OWL-ViT configuration."""
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size_px,
        "patch_size": 16,
    }


def save_clip(folder: Path, *, size_px: int = 64, width: int = 32) -> Path:
    """Saves a CLIP with its processor."""
    tokenizer = clip_tokenizer()
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=text_settings(tokenizer), vision_config=vision_settings(size_px), projection_dim=width
    )
    CLIPModel(config).eval().save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": size_px}, crop_size={"height": size_px, "width": size_px})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def save_owlv2(folder: Path, *, size_px: int = 96) -> Path:
    """Saves an OWLv2 with its processor."""
    tokenizer = clip_tokenizer()
    torch.manual_seed(0)
    config = Owlv2Config(
        text_config=text_settings(tokenizer), vision_config=vision_settings(size_px), projection_dim=32
    )
    Owlv2ForObjectDetection(config).eval().save_pretrained(folder)
    images = Owlv2ImageProcessor(size={"height": size_px, "width": size_px})
    Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def save_owlvit(folder: Path, *, size_px: int = 96) -> Path:
    """Saves an OWL-ViT with its processor."""
    tokenizer = clip_tokenizer()
    torch.manual_seed(0)
    config = OwlViTConfig(
        text_config=text_settings(tokenizer), vision_config=vision_settings(size_px), projection_dim=32
    )
    OwlViTForObjectDetection(config).eval().save_pretrained(folder)
    images = OwlViTImageProcessor(size={"height": size_px, "width": size_px})
    OwlViTProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def save_siglip(folder: Path, *, size_px: int = 64) -> Path:
    """Saves a SigLIP with its processors; its tokenizer is CLIP's, as SigLIP's own would need sentencepiece."""
    tokenizer = clip_tokenizer()
    torch.manual_seed(0)
    text = text_settings(tokenizer) | {"projection_size": 32}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision_settings(size_px))).eval().save_pretrained(folder)
    SiglipImageProcessor(size={"height": size_px, "width": size_px}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_dinov2(folder: Path, *, size_px: int = 64) -> Path:
    """Saves a DINOv2 with its image processor, which resizes to 8/7 of the crop as the real one does."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=size_px, patch_size=16
    )
    Dinov2Model(config).eval().save_pretrained(folder)
    crop = {"height": size_px, "width": size_px}
    BitImageProcessor(size={"shortest_edge": size_px * 8 // 7}, crop_size=crop).save_pretrained(folder)
    return folder


def save_grounding_dino(folder: Path, *, mm: bool = False) -> Path:
    """Saves a Grounding DINO, or an MM-Grounding-DINO, with its processor."""
    import transformers
    from transformers import BertTokenizer, GroundingDinoImageProcessor, GroundingDinoProcessor, SwinConfig

    torch.manual_seed(0)
    tokenizer = BertTokenizer(vocab=bert_vocab())
    family = "MMGroundingDino" if mm else "GroundingDino"
    config = getattr(transformers, f"{family}Config")(
        backbone_config=SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config={
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=20,
        max_text_len=32,
    )
    getattr(transformers, f"{family}ForObjectDetection")(config).eval().save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 256})
    GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def bert_vocab() -> dict[str, int]:
    """Returns a small vocabulary with BERT's numbers for what Grounding DINO knows by number: [CLS] [SEP] . and ?"""
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    words = iter([*letters, *(f"##{letter}" for letter in letters), *" ".join(WORDS).split()])
    taken, vocab = {token: number for number, token in fixed.items()}, {}
    for number in range(1030):
        token = fixed.get(number) or next((w for w in words if w not in taken and w not in vocab), f"[unused{number}]")
        vocab[token] = number
    return vocab


def save_yolo(folder: Path, *, kind: str = "yolov8n-worldv2.yaml", side_px: int = 96) -> Path:
    """Saves a YOLO-World or a YOLOE of the smallest size with random weights, as Ultralytics saves one."""
    from ultralytics import YOLOE, YOLOWorld

    torch.manual_seed(0)
    model = (YOLOE if kind.startswith("yoloe") else YOLOWorld)(kind)
    for name, parameter in model.model.named_parameters():
        if "cv4" in name and name.endswith("bias"):
            parameter.data.fill_(0.0)  # untrained, it says no to everything: scores would all be near zero
        if "cv5" in name or "proto" in name:
            parameter.data.abs_()  # likewise its masks: this one draws every box full
    model.save(str(folder / "model.pt"))
    saved = torch.load(folder / "model.pt", weights_only=False)
    torch.save({**saved, "train_args": {"imgsz": side_px}}, folder / "model.pt")
    return folder / "model.pt"
