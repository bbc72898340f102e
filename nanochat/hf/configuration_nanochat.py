"""Shape and switches of a NanoChat with the modern parts, as transformers keeps them in config.json

This file travels in the folder of an exported model. It stands on transformers alone."""

from transformers import PretrainedConfig


class NanoChatModernConfig(PretrainedConfig):
    "Names that transformers has for such things are transformers'; the switches keep the names of the course"

    model_type = "nanochat_modern"

    def __init__(
        self,
        vocab_size=1024,              # ids in the vocabulary
        hidden_size=128,              # channels of the stream
        intermediate_size=512,        # channels inside an MLP
        num_hidden_layers=4,
        num_attention_heads=2,        # heads of queries
        num_key_value_heads=2,        # heads of keys and values, shared by groups of queries
        max_position_embeddings=512,  # it was trained on rows of half as many tokens
        hidden_act="relu2",
        rope_theta=10000.0,
        rms_norm_eps=2.0**-23,        # what torch adds in float32
        final_logit_softcapping=15.0,  # None: logits are left alone
        window=0,                     # how far back the short layers see; 0: no limit
        pattern="SSSL",               # which layers are short (S) and which see everything (L), repeated
        value_embeds=False,           # a second embedding, added to the values of every other layer
        x0_residual=False,            # learned scales on the stream and on the first embedding
        smear=False,                  # a share of the previous token's embedding
        backout=False,                # part of the middle layer's stream is taken out before the head
        qk_scale=1.0,                 # times queries and keys after their norm
        narrow_gates=False,           # gates read the first 12 channels (value embeddings) or 24 (smear)
        use_cache=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act = hidden_act
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.final_logit_softcapping = final_logit_softcapping
        self.window = window
        self.pattern = pattern
        self.value_embeds = value_embeds
        self.x0_residual = x0_residual
        self.smear = smear
        self.backout = backout
        self.qk_scale = qk_scale
        self.narrow_gates = narrow_gates
        self.use_cache = use_cache
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**kwargs)
