"""A tokenizer whose special tokens no text can spell: only the chat template writes them

This file travels in the folder of an exported model. It stands on transformers alone."""

import re
import secrets
from transformers import PreTrainedTokenizerFast


class NanoChatTokenizer(PreTrainedTokenizerFast):
    "Names of special tokens in text, and in the words of a chat, are text like any other"

    @property
    def split_special_tokens(self):      # no __init__: with one, transformers would not read tokenizer.json
        return True

    @split_special_tokens.setter
    def split_special_tokens(self, wanted):
        "The folder says False, for tokenizers that read the rendered chat as text; this one need not"

    def apply_chat_template(
        self,
        conversation,            # a list of messages, or several such lists
        tokenize=True,           # False: text to look at, in which a name may be a token or only its name
        return_dict=True,
        return_tensors=None,
        padding=False,
        truncation=False,
        max_length=None,
        tokenizer_kwargs=None,   # taken, since others take it; there is nothing to choose
        **kwargs,
    ):
        kwargs["names_are_text"] = True               # so the template need not refuse them
        if not tokenize:
            return super().apply_chat_template(conversation, tokenize=False, **kwargs)
        mark = secrets.token_hex(16)                  # new for each chat: nobody can have written it into one
        marked = (kwargs.pop("chat_template", None) or self.chat_template).replace("'<|", f"'{mark}<|")
        texts = super().apply_chat_template(conversation, chat_template=marked, tokenize=False, **kwargs)
        several = not isinstance(texts, str)
        rows = [self._encode_marked(text, mark) for text in (texts if several else [texts])]
        if truncation and max_length:
            rows = [row[:max_length] for row in rows]
        batch = self.pad(
            dict(input_ids=rows if several or return_tensors else rows[0]),
            padding=padding, max_length=max_length, return_tensors=return_tensors,
        )
        return batch if return_dict else batch["input_ids"]

    def _encode_marked(self, text, mark):
        "Ids of a chat: what stands behind a mark is a special token, all else is text"
        ids = []
        for n, part in enumerate(re.split(rf"{mark}(<\|\w+\|>)", text)):
            if n % 2:
                ids.append(self.convert_tokens_to_ids(part))
            elif part:
                ids += self.encode(part, add_special_tokens=False)
        return ids
