"""Queries → answers of a multimodal LLM in this process: the log-odds of its next token, one forward pass each."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from discovery.backends.checkpoint import load_model, load_processor
from discovery.backends.mllm_questions import LETTERS, Answer, Query, from_mass
from discovery.config import ComputeConfig, MllmConfig
from discovery.errors import BackendError
from discovery.images import resize

COVERED = 0.25
"""Share of a visual token from which what is hidden hides it: less would leave much of an object in its rim."""


class LocalMllm:
    """A checkpoint of transformers that reads a photo and a text (LLaVA, Qwen-VL, SmolVLM, …)."""

    drops_tokens = True

    def __init__(self, config: MllmConfig, compute: ComputeConfig) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._name, self._min_mass, self._batch = config.checkpoint or "", config.min_mass, compute.batch_size
        self._processor = load_processor(AutoProcessor, self._name, compute)
        self._model = load_model(AutoModelForImageTextToText, self._name, compute)
        if getattr(self._processor, "chat_template", None) is None:
            raise BackendError(
                f"{self._name} has no chat template, so it cannot be asked; name an instruction-tuned one"
            )
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"  # the next token then follows the last position of every row
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self.n_calls = 0

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """Answers queries in order: the probabilities of the variants of each option as the next token."""
        answers: list[Answer] = []
        for start in range(0, len(queries), self._batch):
            answers += self._answer(queries[start : start + self._batch])
        return answers

    def _answer(self, queries: Sequence[Query]) -> list[Answer]:
        import torch

        inputs = self._inputs(queries)
        self.n_calls += len(queries)
        with torch.inference_mode(), _Dropped(self._model, self._dropped(queries, inputs)):
            logits = self._model(**inputs).logits[:, -1].double().cpu()
        probs = torch.softmax(logits, dim=-1).numpy()
        answers = []
        for row, query in zip(probs, queries, strict=True):
            mass = np.array([row[self._variants(option)].sum() for option in query.question.options])
            answers.append(from_mass(self._tokenizer.decode([int(row.argmax())]).strip(), mass, self._min_mass))
        return answers

    def _inputs(self, queries: Sequence[Query]) -> dict[str, Any]:
        texts = [
            self._processor.apply_chat_template(_chat(query.question.text), add_generation_prompt=True)
            for query in queries
        ]
        images = [[_at_least(query.image)] for query in queries]
        inputs = self._processor(images=images, text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(self._model.device)
        return {
            name: value.to(self._model.dtype) if value.is_floating_point() else value for name, value in inputs.items()
        }

    def _variants(self, option: str) -> list[int]:
        """Returns the tokens that are an option by themselves: "Yes", "yes", " yes", …"""
        spelled = {option} if option in LETTERS else {option, option.capitalize(), option.upper()}
        unknown = self._tokenizer.unk_token_id
        tokens = set()
        for text in (lead + word for word in spelled for lead in ("", " ")):
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            tokens |= set(ids) if len(ids) == 1 else set()
            tokens.add(self._tokenizer.convert_tokens_to_ids(text))
        tokens -= {None, unknown}
        if not tokens:
            raise BackendError(f"{self._name} has no token for the answer {option!r}; ask it through a server instead")
        return sorted(tokens)

    def _dropped(self, queries: Sequence[Query], inputs: dict[str, Any]) -> Any:
        """Returns (queries, tokens) bool, the visual tokens of what is hidden; None where nothing is."""
        import torch

        if all(query.hidden is None for query in queries):
            return None
        visual = inputs["input_ids"] == self._image_token()
        dropped = torch.zeros_like(visual)
        for row, query in enumerate(queries):
            if query.hidden is not None:
                places = visual[row].nonzero().ravel()
                dropped[row, places] = torch.from_numpy(self._cells(query.hidden, len(places))).to(places.device)
        return dropped, visual

    def _cells(self, hidden: np.ndarray, n_tokens: int) -> np.ndarray:
        """Returns (tokens,) bool, the visual tokens that show a part of what is hidden (see `covered`).

        Where the pixels of a photo go in the model's input is not computed but seen: a white mask on black goes through
        the same processor, with all its resizing, cropping and padding.
        """
        black, white = (self._pixels(np.full((*hidden.shape, 3), level, np.uint8)) for level in (0, 255))
        shown = self._pixels(np.repeat(hidden[..., None], 3, axis=2).astype(np.uint8) * 255)
        range_ = np.abs(white - black)
        share = np.abs(shown - black) / np.where(range_ > 0, range_, 1)
        if share.ndim == 2:  # patches in the order of the tokens, several to a token
            patches = share.mean(axis=1)
            if len(patches) % n_tokens == 0:
                return covered(patches.reshape(n_tokens, -1).mean(axis=1))
        side = round(n_tokens**0.5)
        if share.ndim == 4 and len(share) == 1 and side**2 == n_tokens:  # one picture, tokens in rows
            return covered(resize_share(share[0].mean(axis=0), side).ravel())
        raise BackendError(
            f"{self._name} cuts a photo into {n_tokens} visual tokens in a way that no place can be traced through; "
            "set ask.drop_tokens = false"
        )

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        found = self._processor.image_processor(images=[_at_least(image)], return_tensors="pt")
        return found["pixel_values"].double().numpy()

    def _image_token(self) -> int:
        config = self._model.config
        found = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        if found is None:
            raise BackendError(f"{self._name} does not say which tokens are visual; set ask.drop_tokens = false")
        return int(found)


class _Dropped:
    """While open, the visual tokens of what is hidden reach the language model as the mean of the photo's others.

    Their places stay, so that nothing else moves. The vision encoder has seen the whole photo before: what is left of
    the hidden part in its neighbours' tokens stays there.
    """

    def __init__(self, model: Any, dropped: Any) -> None:
        self._model, self._dropped = model, dropped
        self._hook = None

    def __enter__(self) -> None:
        if self._dropped is not None:
            decoder = self._model.get_decoder()
            self._hook = decoder.register_forward_pre_hook(self._replace, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _replace(self, _: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        dropped, visual = self._dropped
        embeds = kwargs.get("inputs_embeds")
        if embeds is None or embeds.shape[:2] != dropped.shape:
            raise BackendError("this architecture hides its visual tokens; set ask.drop_tokens = false")
        embeds = embeds.clone()
        for row in range(len(embeds)):
            kept = visual[row] & ~dropped[row]
            embeds[row, dropped[row]] = embeds[row, kept].mean(dim=0) if kept.any() else 0.0
        return args, {**kwargs, "inputs_embeds": embeds}


def covered(share: np.ndarray) -> np.ndarray:
    """Returns which of (tokens,) shares count as hidden: from a quarter, or of a smaller thing half its largest."""
    return (share > 0) & (share >= min(COVERED, share.max(initial=0.0) / 2))


def resize_share(share: np.ndarray, side: int) -> np.ndarray:
    """Returns the (side, side) means of a (H, W) array of shares."""
    import cv2

    return cv2.resize(share.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA).reshape(side, side)


def _chat(text: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def _at_least(image: np.ndarray, side_px: int = 28) -> np.ndarray:
    """Returns an image whose sides have at least that many pixels: less is no patch of some models."""
    height, width = (max(side_px, side) for side in image.shape[:2])
    return resize(image, height, width)
