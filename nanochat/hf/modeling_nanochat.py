"""A NanoChat with the modern parts for transformers: windows, value embeddings, x0 residual, smear, backout

This file travels in the folder of an exported model. It stands on torch and transformers alone, so that
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` needs nothing else. The same model is
taught, and trained, in chapter 09 of the course; tests hold the two to the same logits.

Shapes: B batch, T new tokens, S tokens with those in the cache, H heads of queries, G of keys and values,
D head dim, F = D/2 pairs, C channels, E = G·D, V vocabulary."""

from dataclasses import fields
import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from .configuration_nanochat import NanoChatModernConfig

# transformers renamed it in the middle of version 5
CACHE = "cache" if "cache" in {f.name for f in fields(CausalLMOutputWithPast)} else "past_key_values"


def rms_norm(x, eps):
    "Root mean square 1, computed in float32, without a learned gain"
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def apply_rope(x_BTHD, cos_BTF, sin_BTF):
    "Turn each pair (d, d+F) by the angle of its position"
    a, b = x_BTHD.chunk(2, -1)
    cos, sin = cos_BTF[:, :, None], sin_BTF[:, :, None]
    return torch.cat((a * cos + b * sin, b * cos - a * sin), -1)


def angles(position_ids, head_dim, base, dtype):
    "Cosines and sines (B,T,F) of the positions, made anew in each pass: nothing to keep, nothing to load"
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device)
    angle_BTF = position_ids[..., None].float() * (1.0 / base ** (steps / head_dim))
    return angle_BTF.cos().to(dtype), angle_BTF.sin().to(dtype)


def has_value_embeds(layer, n_layer):
    "Every other layer, the last one always among them"
    return layer % 2 == (n_layer - 1) % 2


def window_of(config, layer):
    "How far back a layer sees; 0: everything, as layers with an L in the pattern and the last one do"
    last = layer == config.num_hidden_layers - 1
    return 0 if last or config.pattern[layer % len(config.pattern)] == "L" else config.window


def gate_channels(config, at_most):
    "How many channels of the stream a gate reads, the first ones"
    return min(at_most, config.hidden_size) if config.narrow_gates else config.hidden_size


def visible(T, S, window, padding_BS, device):
    "True (T,S) or (B,1,T,S) where the last T of S tokens look: back, within the window, not at padding"
    query_T1 = torch.arange(S - T, S, device=device)[:, None]
    key_S = torch.arange(S, device=device)
    seen = key_S <= query_T1
    if window > 0:
        seen = seen & (key_S >= query_T1 - window)
    if padding_BS is None:
        return seen
    seen = seen & ~padding_BS[:, None]
    return (seen | (key_S == query_T1))[:, None]     # padding sees itself: without any key there would be NaN


def attend(q_BHTD, k_BGSD, v_BGSD, window, padding_BS):
    "Causal attention of the last T of S tokens; without a mask where none is needed"
    T, S = q_BHTD.size(2), k_BGSD.size(2)
    everything = padding_BS is None and not 0 < window < S - 1
    gqa = q_BHTD.size(1) != k_BGSD.size(1)
    if everything and T in (1, S):
        return F.scaled_dot_product_attention(q_BHTD, k_BGSD, v_BGSD, is_causal=T == S, enable_gqa=gqa)
    seen = visible(T, S, window, padding_BS, q_BHTD.device)
    return F.scaled_dot_product_attention(q_BHTD, k_BGSD, v_BGSD, attn_mask=seen, enable_gqa=gqa)


class NanoChatModernAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.window, self.eps = layer, window_of(config, layer), config.rms_norm_eps
        self.n_head, self.n_kv_head = config.num_attention_heads, config.num_key_value_heads
        self.qk_scale = config.qk_scale
        C = config.hidden_size
        self.head_dim = C // self.n_head
        E = self.n_kv_head * self.head_dim
        self.q_proj = nn.Linear(C, C, bias=False)
        self.k_proj = nn.Linear(C, E, bias=False)
        self.v_proj = nn.Linear(C, E, bias=False)
        self.o_proj = nn.Linear(C, C, bias=False)
        if config.value_embeds and has_value_embeds(layer, config.num_hidden_layers):
            self.ve_gate = nn.Linear(gate_channels(config, 12), self.n_kv_head, bias=False)

    def forward(self, x_BTC, cos, sin, ve_BTE, padding_BS, cache):
        B, T, C = x_BTC.shape
        q = self.q_proj(x_BTC).view(B, T, self.n_head, self.head_dim)
        k = self.k_proj(x_BTC).view(B, T, self.n_kv_head, self.head_dim)
        v = self.v_proj(x_BTC).view(B, T, self.n_kv_head, self.head_dim)
        if ve_BTE is not None:
            gate_BTG1 = 2 * torch.sigmoid(self.ve_gate(x_BTC[..., : self.ve_gate.in_features]))[..., None]
            v = v + gate_BTG1 * ve_BTE.view(v.shape)
        q, k = (self.qk_scale * rms_norm(apply_rope(t, cos, sin), self.eps) for t in (q, k))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        y_BHTD = attend(q, k, v, self.window, padding_BS)
        return self.o_proj(y_BHTD.transpose(1, 2).reshape(B, T, C))


class NanoChatModernMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTC):
        return self.fc2(F.relu(self.fc1(x_BTC)).square())


class NanoChatModernLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.self_attn, self.mlp = NanoChatModernAttention(config, layer), NanoChatModernMLP(config)

    def forward(self, x_BTC, *args):
        x_BTC = x_BTC + self.self_attn(rms_norm(x_BTC, self.eps), *args)
        return x_BTC + self.mlp(rms_norm(x_BTC, self.eps))


class NanoChatModernStack(nn.Module):
    "From ids to the stream that the head reads"

    def __init__(self, config):
        super().__init__()
        self.config = config
        V, C, L = config.vocab_size, config.hidden_size, config.num_hidden_layers
        self.embed_tokens = nn.Embedding(V, C)
        self.layers = nn.ModuleList(NanoChatModernLayer(config, i) for i in range(L))
        if config.value_embeds:
            E = C // config.num_attention_heads * config.num_key_value_heads
            tables = {str(i): nn.Embedding(V, E) for i in range(L) if has_value_embeds(i, L)}
            self.value_embeds = nn.ModuleDict(tables)
        if config.x0_residual:
            self.resid_scale = nn.Parameter(torch.ones(L))
            self.x0_scale = nn.Parameter(torch.zeros(L))
        if config.smear:
            self.smear_gate = nn.Linear(gate_channels(config, 24), 1, bias=False)
            self.smear_scale = nn.Parameter(torch.zeros(1))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.zeros(1))

    def embed(self, ids_BT):
        return rms_norm(self.embed_tokens(ids_BT), self.config.rms_norm_eps)

    def smear(self, x_BTC, ids_BT, padding_BS, cache):
        """Each token takes up a gated share of the token before it

        For the first token of this pass that one is in the cache: ids are kept there, in a layer of their own
        behind those of keys and values, so that beam search and cropping move them with the rest."""
        ids_BS = ids_BT if cache is None else remember_ids(cache, ids_BT, self.config.num_hidden_layers)
        B, T, C = x_BTC.shape
        if ids_BS.size(1) > T:
            first = self.embed(ids_BS[:, -T - 1, None])
        else:
            first = torch.zeros_like(x_BTC[:, :1])
        before_BTC = torch.cat((first, x_BTC[:, :-1]), 1)
        if padding_BS is not None:                       # before the first real token there is nothing
            padding = F.pad(padding_BS, (1, 0), value=True)[:, -T - 1 : -1]
            before_BTC = before_BTC.masked_fill(padding[..., None], 0)
        gate = self.smear_gate(x_BTC[..., : self.smear_gate.in_features])
        share = self.smear_scale.float() * 2 * torch.sigmoid(gate)
        return rms_norm((x_BTC + share * before_BTC).to(x_BTC.dtype), self.config.rms_norm_eps)

    def forward(self, ids_BT, position_ids, padding_BS, cache):
        config, x = self.config, self.embed(ids_BT)
        if config.smear:
            x = self.smear(x, ids_BT, padding_BS, cache)
        head_dim = config.hidden_size // config.num_attention_heads
        cos, sin = angles(position_ids, head_dim, config.rope_theta, x.dtype)
        x0, middle = x, None
        for i, layer in enumerate(self.layers):
            if config.x0_residual:                       # float32 until the sum is rounded
                carried = self.resid_scale[i].float() * x.float()
                x = (carried + self.x0_scale[i].float() * x0.float()).to(x.dtype)
            ve_BTE = None
            if config.value_embeds and has_value_embeds(i, config.num_hidden_layers):
                ve_BTE = self.value_embeds[str(i)](ids_BT)
            x = layer(x, cos, sin, ve_BTE, padding_BS, cache)
            if i == config.num_hidden_layers // 2:
                middle = x
        if config.backout:
            x = (x.float() - self.backout_scale.float() * middle.float()).to(x.dtype)
        return rms_norm(x, config.rms_norm_eps)


def remember_ids(cache, ids_BT, n_layer):
    "Ids (B,S) of all tokens that a cache has seen, these included"
    while len(cache.layers) <= n_layer:
        cache.layers.append(DynamicLayer())
    keys = ids_BT[:, None, :, None]
    kept, _ = cache.layers[n_layer].update(keys, keys[..., :0])
    return kept[:, 0, :, 0]


def padding_in(attention_mask, S):
    "True (B,S) where a token is padding, or None where none is"
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2 or attention_mask.size(1) != S:
        shape = tuple(attention_mask.shape)
        raise ValueError(f"attention_mask has shape {shape}: one entry is needed for each of {S} tokens, "
                         "those in the cache included")
    return None if attention_mask.all() else attention_mask == 0


class NanoChatModernForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = NanoChatModernConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules = ["NanoChatModernLayer"]

    def __init__(self, config):
        super().__init__(config)
        self.model = NanoChatModernStack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, table):
        self.model.embed_tokens = table

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, head):
        self.lm_head = head

    def forward(
        self,
        input_ids=None,         # (B,T)
        attention_mask=None,    # (B,S): 0 where a token is padding, those in the cache included
        position_ids=None,      # (B,T); default: counted on from the cache
        cache=None,             # of the tokens before; takes up these
        past_key_values=None,   # its name in older versions of transformers
        labels=None,            # (B,T): the ids themselves, -100 where nothing is scored
        use_cache=None,
        logits_to_keep=0,       # logits of the last so many tokens only; 0: of all
        num_items_in_batch=None,  # scored tokens of a whole step, where it is made of several batches
        **kwargs,
    ):
        if input_ids is None:
            raise ValueError("NanoChat reads input_ids: its value embeddings and smear are made from them")
        cache = past_key_values if cache is None else cache
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if use_cache and cache is None:
            cache = DynamicCache()
        if getattr(cache, "is_compileable", False):
            raise ValueError("NanoChat keeps its cache in a DynamicCache: leave cache_implementation alone")
        begun = cache.get_seq_length() if cache is not None else 0
        S = begun + input_ids.size(1)
        if position_ids is None:
            position_ids = torch.arange(begun, S, device=input_ids.device)[None]
        padding_BS = padding_in(attention_mask, S)
        x_BTC = self.model(input_ids, position_ids, padding_BS, cache)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x_BTC[:, keep]).float()
        if cap := self.config.final_logit_softcapping:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
            logits_NV, targets_N = logits.flatten(0, 1), targets.flatten()
            if num_items_in_batch is None:
                loss = F.cross_entropy(logits_NV, targets_N)
            else:
                loss = F.cross_entropy(logits_NV, targets_N, reduction="sum") / num_items_in_batch
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache if use_cache else None})
