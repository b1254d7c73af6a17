"""A tiny LLaVA of the real architecture, with random weights, saved as a user would have it; no download."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tiny_checkpoints import vision_settings
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    TokenizersBackend,
)

CHAT = (
    "{% for m in messages %}{{ m.role }} {% for c in m.content %}"
    "{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
SPOKEN = (
    "user assistant is there a an in this image does show can be seen answer or with the letter of one option what main"
    " subject yes no Yes No A B C D E F . ? red blue green cat dog owl climbing diving disc square"
)


def words_tokenizer(extra: Iterable[str] = ()) -> TokenizersBackend:
    """Returns a tokenizer with one token per word it knows; every other word is unknown."""
    words = dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", "<image>", *SPOKEN.split(), *extra])
    spelled = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    spelled.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[.?]"), behavior="isolated")]
    )
    spelled.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>", "<image>"])
    return TokenizersBackend(
        tokenizer_object=spelled,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )


def save_llava(folder: Path, *, size_px: int = 64, extra: Iterable[str] = ()) -> Path:
    """Saves a LLaVA (a CLIP that sees, a Llama that speaks) with its processor and chat template."""
    tokenizer = words_tokenizer(extra)
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    seen = CLIPVisionConfig(**vision_settings(size_px))
    config = LlavaConfig(vision_config=seen, text_config=text, image_token_id=image_token, vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": size_px}, crop_size={"height": size_px, "width": size_px}
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder
